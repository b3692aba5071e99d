"""The config for own pictures, from a folder of class folders to predictions of new ones."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import error_line

from lightning_transfer.cli.entry import main

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--dashboards", "null"]
RUN = Path("logs/my_images/a")


def picture(name: str, seed: int) -> Image.Image:
    """A noisy picture, brighter on the side that its class is called after."""
    values = np.random.default_rng(seed).integers(0, 100, (70, 80, 3), dtype=np.uint8)
    values[:, slice(0, 40) if name == "left" else slice(40, 80)] += 120
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders, and new pictures without labels, of which one is damaged."""
    root = tmp_path_factory.mktemp("pictures")
    for seed in range(30):
        for place in ("mine/left", "mine/right"):
            (root / place).mkdir(parents=True, exist_ok=True)
            picture(Path(place).name, seed).save(root / place / f"{seed}.png")
    (root / "mine" / "left" / "7.png").write_bytes(b"no picture")
    (root / "new" / "test").mkdir(parents=True)
    for seed, name in enumerate(["right", "left", "right"]):
        picture(name, 100 + seed).save(root / "new" / "test" / f"{seed}.jpg")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    logs = tmp_path_factory.mktemp("logs")
    config = ["--config", "configs/my_images.yaml", "--data.path", str(folder / "mine"), "--data.on_error", "skip"]
    patch = pytest.MonkeyPatch()
    patch.chdir(Path(__file__).parents[1])
    # No flips, which the classes of this test would not survive, and a small network's worth of pixels.
    own = ["--data.augmentation.horizontal_flip", "false", "--data.test_fraction", "0.2", "--test_after_fit", "true"]
    main(
        [
            "fit",
            *config,
            *own,
            "--logs",
            str(logs),
            "--version",
            "a",
            "--trainer.max_epochs",
            "4",
            "--data.batch_size",
            "8",
            *QUIET,
        ]
    )
    patch.undo()
    return logs / "my_images" / "a"


def test_config_learns_class_folders_and_records_what_was_left_out(run: Path) -> None:
    record = json.loads((run / "results.json").read_text())
    assert record["test"]["test/accuracy"] > 0.9
    assert record["data"]["train_examples"] + record["data"]["validation_examples"] == 59 - 12
    [left_out] = [row for rows in record["data"]["left_out"].values() for row in rows]
    assert left_out == {"name": "left/7.png", "reason": "it has no known format of images, or a damaged head"}


def predict(run: Path, *arguments: str) -> list[str]:
    return [
        *("predict", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")),
        *(*QUIET, "--data.test_fraction", "0", *arguments),
    ]


def test_unlabelled_test_split_is_predicted_by_its_files_into_a_table(run: Path, folder: Path) -> None:
    main(predict(run, "--data.path", str(folder / "new"), "--output", "new.csv"))
    with Path("new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["class"]) for row in rows] == [
        ("test/0.jpg", "right"),
        ("test/1.jpg", "left"),
        ("test/2.jpg", "right"),
    ]
    assert float(rows[1]["probabilities.left"]) > 0.5


def test_damaged_picture_to_predict_is_one_line_or_left_out(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = str(folder / "mine" / "left")
    line = error_line(capsys, *predict(run, "--data.predict_path", left, "--data.on_error", "raise"))
    assert line.startswith(f"{left}/7.png cannot be decoded as an image: it has no known format")
    with pytest.warns(
        UserWarning, match=r"1 of 30 examples of .*left cannot be read and are left out: 7\.png \(it has"
    ):
        main(predict(run, "--data.predict_path", left))
    names = [json.loads(line)["name"] for line in Path("predictions.jsonl").read_text().splitlines()]
    assert names == [f"{number}.png" for number in range(30) if number != 7]
    assert "29 predictions in predictions.jsonl" in capsys.readouterr().out
