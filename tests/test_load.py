"""A finished run in Python: loaded from its folder alone, it says what the command predict says, to the last bit."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, fit_arguments, image_dataset, write_parquet
from PIL import Image

from lightning_transfer import load
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError

SMALL = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
QUIET = ["--trainer.enable_model_summary", "false", "--dashboards", "null", *SMALL]
WORDS = [f"{a} {b} film" for a in ("a good", "a bad", "no", "the dull and long") for b in ("fine", "poor", "red")]
# What a program does that has nothing but the run's folder: no data set, no network, another working directory.
PROGRAM = """
import json, socket, sys
socket.socket.connect = socket.getaddrinfo = lambda *_: sys.exit("the network was used")
import lightning_transfer
assert "torch" not in sys.modules
from lightning_transfer import load
model = load(sys.argv[1])
print(json.dumps(model.predict(sys.argv[2:]).probabilities.tolist()))
"""


def fit(folder: Path, name: str, *arguments: str) -> Path:
    """Trains for an epoch; what is left of the run is in another folder, and its data set is gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", *arguments, "--version", name, *QUIET])
        return shutil.move(folder / "logs" / "default" / name, folder / "kept" / name)


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_parquet(root / "set", train=image_dataset(90), test=image_dataset(30, seed=1))
    (root / "kept").mkdir()
    # A folder that the normalisation came from, and a callback, are not needed any more either.
    own = ["--trainer.callbacks+", "test_load.Nothing", "--data.normalise_as", "ResNet18_Weights.IMAGENET1K_V1"]
    run = fit(root, "a", *fit_arguments(Path("set"), *own)[1:])
    shutil.rmtree(root / "set")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("test_load.Nothing", "gone.Nothing").replace("ResNet18_Weights.IMAGENET1K_V1", "gone/folder")
    )
    return run


class Nothing(L.Callback):
    """A callback of somebody's own."""


def targets(rows: int) -> datasets.Dataset:
    tags = [["red", "round"][: row % 3] for row in range(rows)]
    return datasets.Dataset.from_dict(
        {
            "title": [f"title {row % 3}" for row in range(rows)],
            "text": [WORDS[row % len(WORDS)] for row in range(rows)],
            "tags": tags,
            "size": [row % 5 / 4 for row in range(rows)],
            "label": [["bad", "good"][row % 2] for row in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains on texts with the target that a test names."""
    root = tmp_path_factory.mktemp("texts")
    write_parquet(root / "set", train=targets(48), test=targets(12))
    (root / "kept").mkdir()
    network = ["--model.network", "LSTMClassifier", "--model.network.embedding_size", "8"]
    common = ["--data", "TextDataModule", "--data.path", "set", *network, "--model.network.hidden_size", "8"]
    done: dict[str, Path] = {}

    def run(name: str, *arguments: str) -> Path:
        if name not in done:
            done[name] = fit(root, name, *common, *arguments)
        return done[name]

    return run


def predict(run: Path, *arguments: str) -> list[dict[str, Any]]:
    """The lines of the command."""
    checkpoint = next(file for file in ("best.ckpt", "last.ckpt") if (run / "checkpoints" / file).exists())
    files = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / checkpoint)]
    main(["predict", *files, "--data.path", "nowhere", "--trainer.enable_progress_bar", "false", *arguments])
    return [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]


def columns(lines: list[dict[str, Any]], key: str = "probabilities") -> list[list[float]]:
    return [[*line[key].values()] for line in lines]


def pictures(count: int = 7) -> list[str]:
    """Files of other sizes and modes."""
    generator = np.random.default_rng(0)
    for row in range(count):
        image = Image.fromarray(generator.integers(0, 256, (40 + row, 50, 3), dtype=np.uint8))
        image.convert(["RGB", "L", "P", "RGBA"][row % 4]).save(f"{row}.png")
    return [f"{row}.png" for row in range(count)]


def known(run: Path) -> list[str]:
    """Arguments that give the command what its config names and is gone."""
    text = (run / "config.yaml").read_text().replace("gone.Nothing", "test_load.Nothing")
    Path("known.yaml").write_text(text.replace("gone/folder", "ResNet18_Weights.IMAGENET1K_V1"))
    return ["--config", "known.yaml"]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_images_get_the_bits_of_the_command_at_any_batch_size(image_run: Path, batch_size: int | None) -> None:
    Path("new").mkdir()
    files = [shutil.move(file, "new") for file in pictures()]
    (restored := Path("run")).symlink_to(image_run)
    shutil.copytree(image_run, "copy")
    shutil.copy(known(restored)[1], "copy/config.yaml")
    size = [] if batch_size is None else ["--data.eval_batch_size", str(batch_size)]
    lines = predict(Path("copy"), "--data.predict_path", "new", *size)
    found = load(image_run).predict(files, batch_size)
    assert found.probabilities is not None
    assert found.probabilities.tolist() == columns(lines)
    assert found.labels == [line["class"] for line in lines]
    assert found.class_names == ["class0", "class1", "class2"]
    assert found.values is None


def test_page_predicts_as_written(image_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs" / "python.md").read_text()
    [program] = re.findall(r"```python\n(from lightning_transfer import load\n.*?)```", page, re.DOTALL)
    Path("logs/quickstart").mkdir(parents=True)
    Path("logs/quickstart/version_0").symlink_to(image_run)
    for old, new in zip(pictures(2), ("cat.png", "dog.png"), strict=True):
        Path(old).rename(new)
    capsys.readouterr()
    exec(program, {})
    assert re.match(r"\['class\d', 'class\d'\] tensor\(\[\[0", capsys.readouterr().out)


def test_program_elsewhere_needs_neither_data_nor_network(image_run: Path, tmp_path_factory: Any) -> None:
    files = [str(Path(file).resolve()) for file in pictures(3)]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    expected = load(image_run).predict(files).probabilities
    assert expected is not None
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM, str(image_run), *files]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected.tolist()
    assert done.stderr == ""
    assert not [*elsewhere.iterdir()]


def test_paths_images_and_arrays_of_one_picture_are_one_example(image_run: Path) -> None:
    file = pictures(1)[0]
    with Image.open(file) as image:
        array = np.asarray(image)
        forms = [file, Path(file), Path(file).read_bytes(), image, array, array / 255, (array / 255).astype(np.float32)]
        forms += [torch.from_numpy(array.copy()), torch.from_numpy(array.copy()).permute(2, 0, 1) / 255]
        found = load(image_run).predict(forms).probabilities
        assert image.getpixel((0, 0)) == tuple(array[0, 0])  # it is still open
    assert found is not None
    assert found.unique(dim=0).shape == (1, 3)
    grey = np.arange(1600, dtype=np.uint8).reshape(40, 40)
    found = load(image_run).predict([grey, grey[:, :, None], np.stack([grey] * 3, 2), Image.fromarray(grey)])
    assert found.probabilities is not None
    assert found.probabilities.unique(dim=0).shape == (1, 3)


@pytest.mark.parametrize(
    ("examples", "line"),
    [
        ("a.png", "examples are str: expected a list"),
        (Path("a.png"), "examples are PosixPath: expected a list"),
        ({"image": ["a.png"]}, "examples are dict: expected a list"),
        (pd.DataFrame({"image": ["a.png"]}), r"examples are DataFrame: expected a list, .* table\['text'\]\.tolist"),
        (["missing.png"], "missing.png cannot be decoded as an image: there is no such file; give another one"),
        ([b"bytes"], "example 0 cannot be decoded as an image: it has no known format of images, or a damaged head"),
        ([b""], "example 0 cannot be decoded as an image: it is empty"),
        ([[3]], "example 0 cannot be decoded as an image: it is list: expected a path, bytes of a file, an image of"),
        ([np.zeros((4, 4), np.int64)], "example 0 .*: it is an array of int64: expected uint8, or real numbers"),
        ([np.full((4, 4), 7.5)], "example 0 .*: its numbers reach from 7.5 to 7.5: expected 0 to 1, or uint8"),
        ([np.full((4, 4), np.nan)], "its numbers reach from nan to nan"),
        ([np.zeros((2, 2)), np.zeros((4, 4, 4, 4))], r"example 1 .*: its numbers have the shape \[4, 4, 4, 4\]"),
        ([None], "example 0 cannot be decoded as an image: it is NoneType"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image_run: Path, examples: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        load(image_run).predict(examples)
    assert "\n" not in str(error.value)


def test_texts_get_the_bits_of_the_command_in_the_order_given(text_run: Callable[..., Path]) -> None:
    run = text_run("texts")
    documents = [*WORDS, "", "a " * 600, "unseen words"]
    Path("new.txt").write_text("\n".join(documents) + "\n")
    for size in (None, 1, 4):
        arguments = [] if size is None else ["--data.eval_batch_size", str(size)]
        lines = predict(run, "--data.predict_path", "new.txt", *arguments)
        found = load(run).predict(documents, batch_size=size)
        assert found.probabilities is not None
        assert found.probabilities.tolist() == columns(lines)
        assert found.labels == [line["class"] for line in lines]


def test_several_texts_are_an_example_where_the_run_read_several_columns(text_run: Callable[..., Path]) -> None:
    run = text_run("columns", "--data.text_column", "[title, text]")
    Path("new.jsonl").write_text("".join(json.dumps({"title": "title 1", "text": text}) + "\n" for text in WORDS))
    found = load(run).predict([("title 1", text) for text in WORDS]).probabilities
    assert found is not None
    assert found.tolist() == columns(predict(run, "--data.predict_path", "new.jsonl"))
    with pytest.raises(UserError, match="example 1 is str: expected a list of 2 strings: title, text"):
        load(run).predict([["a", "b"], "c"])


@pytest.mark.parametrize("given", [[3], [None], [Path("a.txt")], [["a", "b"]]])
def test_what_is_no_text_is_refused_in_one_line(text_run: Callable[..., Path], given: list[object]) -> None:
    with pytest.raises(UserError, match=r"example 0 is (int|NoneType|PosixPath|2 texts): expected a string"):
        load(text_run("texts")).predict(given)


def test_several_classes_and_numbers_are_as_the_command_gives_them(text_run: Callable[..., Path]) -> None:
    Path("new.txt").write_text("\n".join(WORDS) + "\n")
    run = text_run("tags", "--data.problem_type", "multilabel", "--data.label_column", "tags")
    lines, found = predict(run, "--data.predict_path", "new.txt"), load(run).predict(WORDS)
    assert found.labels == [line["classes"] for line in lines]
    assert found.probabilities is not None
    assert found.probabilities.tolist() == columns(lines)
    run = text_run("size", "--data.problem_type", "regression", "--data.label_column", "size")
    lines, found = predict(run, "--data.predict_path", "new.txt"), load(run).predict(WORDS)
    assert found.labels is None
    assert found.probabilities is None
    assert found.values is not None
    assert found.values.tolist() == columns(lines, "values")
    assert found.class_names == ["size"]


def test_ensemble_is_the_mean_with_classes_by_their_names(text_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = text_run("texts"), text_run("texts again", "--seed_everything", "1")
    alone = [load(run).predict(WORDS).probabilities for run in (first, second)]
    together = load([first, second]).predict(WORDS).probabilities
    assert together is not None
    assert torch.equal(together, torch.stack([one for one in alone if one is not None]).mean(0))
    shutil.copytree(second, "turned")
    for file in Path("turned/checkpoints").iterdir():
        saved = torch.load(file, weights_only=True)
        saved["TextDataModule"]["class_names"].reverse()
        torch.save(saved, file)
    turned = load([first, Path("turned")]).predict(WORDS).probabilities
    assert alone[0] is not None
    assert alone[1] is not None
    assert turned is not None
    assert torch.equal(turned, torch.stack([alone[0], alone[1].flip(1)]).mean(0))
    tags = text_run("tags", "--data.problem_type", "multilabel", "--data.label_column", "tags")
    with pytest.raises(UserError, match=r"tags and .*texts do not predict the same"):
        load([first, tags])


def test_threads_get_the_bits_of_one_thread(image_run: Path) -> None:
    model, files = load(image_run), pictures(7)
    expected = {size: model.predict(files, size).probabilities for size in (1, 2, 3, 7)}
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda size: (size, model.predict(files, size).probabilities), [1, 2, 3, 7] * 8)]
    assert len(found) == 32
    for size, probabilities in found:
        assert torch.equal(probabilities, expected[size])


def test_generators_and_folders_of_the_program_stay_as_they_are(image_run: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = {*Path().iterdir()}
    assert load(image_run).predict([]).labels == []
    assert torch.equal(torch.rand(3), expected)
    assert {*Path().iterdir()} == before


def test_best_checkpoint_is_taken_and_the_last_where_none_is(text_run: Callable[..., Path]) -> None:
    run = shutil.copytree(text_run("texts"), "run")
    checkpoints = Path(run, "checkpoints")
    saved = torch.load(checkpoints / "last.ckpt", weights_only=True)
    saved["state_dict"]["network.head.bias"] += 1000 * torch.tensor([1.0, -1.0])
    torch.save(saved, checkpoints / "last.ckpt")
    assert load(run).predict(WORDS).labels == load(text_run("texts")).predict(WORDS).labels
    (checkpoints / "best.ckpt").unlink()
    record = json.loads(Path(run, "results.json").read_text())
    Path(run, "results.json").write_text(json.dumps({**record, "best_checkpoint": None}))
    assert load(run).predict(WORDS).labels == ["bad"] * len(WORDS)


class Trap:
    """Says on a file that it was made."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_checkpoint_with_code_is_refused_and_not_run(text_run: Callable[..., Path]) -> None:
    run = shutil.copytree(text_run("texts"), "run")
    torch.save({"pytorch-lightning_version": "2", "state_dict": Trap()}, Path(run, "checkpoints", "best.ckpt"))
    with pytest.raises(UserError, match="is no checkpoint"):
        load(run)
    assert not Path("sprung").exists()


def test_what_is_no_run_is_refused_in_one_line(text_run: Callable[..., Path], tmp_path: Path) -> None:
    for run, line in {
        str(tmp_path): f"{tmp_path} has no config.yaml: expected the folder of a run",
        (): "no run is given",
        ("a", "./a/"): "a is named twice: each run of an ensemble counts once",
    }.items():
        with pytest.raises(UserError, match=line):
            load(run)
    for device in ("nowhere", "tpu", "cuda:99"):
        with pytest.raises(
            UserError, match=f"device is {device}: expected cpu, or what this machine has, such as cuda"
        ):
            load(text_run("texts"), device=device)
    run = Path(shutil.copytree(text_run("texts"), "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("lightning_transfer.TextDataModule", "gone.Data"))
    with pytest.raises(UserError, match=r"data: 'gone\.Data' is not a class that can be imported"):
        load(run)
    (run / "config.yaml").write_text(text.replace("hidden_size: 8", "hidden_size: 9"))
    with pytest.raises(UserError, match="the checkpoint is of another model than the config"):
        load(run)
