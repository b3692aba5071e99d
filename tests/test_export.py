"""Runs as files for other programs: each gives the module's numbers at any number of examples and any length."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from lightning.pytorch.plugins import Precision
from PIL import Image
from safetensors.torch import load_file
from test_cli import error_line
from test_load import image_run, text_run  # noqa: F401  # fixtures
from tokenizers import Tokenizer
from torch import Tensor, nn

from lightning_transfer import (
    Classifier,
    FastCNN,
    ImageDataModule,
    LSTMClassifier,
    SeedCNN,
    TextDataModule,
    TorchvisionNetwork,
    TransformersNetwork,
    load,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.tokenizer import train_tokenizer
from lightning_transfer.errors import UserError
from lightning_transfer.report.document import escaped
from lightning_transfer.report.model_card import model_card
from lightning_transfer.run.exports.answers import Axes, Exported, exported_of
from lightning_transfer.run.exports.checks import compare, write_and_compare
from lightning_transfer.run.exports.programs import Format, write_program
from lightning_transfer.run.predictor import Member

HAS_ONNX = all(find_spec(library) for library in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra export is not installed")
TEXTS = ["a good film", "a bad and dull film", "no film"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 30}


class FixedBatch(nn.Module):
    """A network whose batch an export fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        means = [self.head(images[row].mean((1, 2))) for row in range(len(images))]
        return torch.stack(means)


class FixedLength(nn.Module):
    """A network whose length of texts an export fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 3)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        states = [self.embedding(token_ids[:, step]) for step in range(token_ids.shape[1])]
        return torch.stack(states).mean(0)


def exported(network: nn.Module, kind: str = "images") -> Exported:
    """A network with random weights, as after a training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
    data: Any
    state = {"place": {}, "class_names": ["a", "b", "c"], "run_seed": 0}
    if kind == "images":
        data = ImageDataModule("nowhere")
        data.load_state_dict({**state, "image_size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.2]})
    else:
        data = TextDataModule("nowhere")
        data.load_state_dict({**state, "tokenizer": train_tokenizer(TEXTS, "words", 100).to_str()})
    return exported_of(Member("run", Classifier(network, 3), data, Precision(), torch.device("cpu")))


NETWORKS = {
    "SeedCNN": lambda: exported(SeedCNN(3)),
    "FastCNN": lambda: exported(FastCNN(3, widths=(8, 16, 16), test_views="mirror_translate")),
    "ResNet-18": lambda: exported(TorchvisionNetwork(3, "resnet18", small_images=True)),
    "LSTM": lambda: exported(LSTMClassifier(100, num_classes=3, hidden_size=16), "texts"),
    "LSTM in both directions": lambda: exported(
        LSTMClassifier(100, num_classes=3, hidden_size=16, num_layers=2, bidirectional=True, pooling="all"), "texts"
    ),
    "BERT": lambda: exported(TransformersNetwork(3, vocabulary_size=100, model_arguments=BERT), "texts"),
}


# FastCNN's trace takes long, and its ONNX file begins with the same.
CASES = [
    pytest.param(network, format, marks=[needs_onnx] if format == "onnx" else [])
    for network in NETWORKS
    for format in ("pt2", "onnx", "safetensors")
    if (network, format) != ("FastCNN", "pt2")
]


@pytest.mark.parametrize(("network", "format"), CASES)
def test_file_gives_the_numbers_of_the_module_at_any_size(network: str, format: Format, tmp_path: Path) -> None:
    given = NETWORKS[network]()
    if format == "pt2" and network.startswith("LSTM"):
        with pytest.raises(UserError, match=r"LSTMClassifier cannot be traced without fixing its time; choose another"):
            write_program(given, format, tmp_path)
        return
    axes, run = write_program(given, format, tmp_path)
    figures = compare(given, axes, run)
    # Three batch sizes, at three lengths or sizes of images. Weights alone are tried at one size of images, and the
    # layers of SeedCNN fix it.
    sizes = 1 if network == "SeedCNN" or (format == "safetensors" and given.input_names == ["images"]) else 3
    assert len(figures["batches"]) == 3 * sizes
    shapes = [batch["inputs"][given.input_names[0]] for batch in figures["batches"]]
    assert len({shape[0] for shape in shapes}) == 3
    assert len({shape[-1] for shape in shapes}) == sizes
    assert figures["max_difference"] <= (0 if format == "safetensors" else 1e-5)


@pytest.mark.parametrize(("network", "kind", "name"), [(FixedBatch, "images", "batch"), (FixedLength, "texts", "time")])
def test_silently_fixed_batch_or_length_is_refused_in_one_line(
    network: type[nn.Module], kind: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{network.__name__} cannot be traced without fixing its {name}; ") as error:
        write_program(exported(network(), kind), "pt2", tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model.pt2").exists()


def test_size_of_images_is_fixed_where_the_file_is_right_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = exported(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
    tried: list[Axes] = []

    def wrong_at_other_sizes(exported: Exported, axes: Axes, run: Any) -> dict[str, Any]:
        tried.append(axes)
        return compare(exported, axes, lambda inputs: run(inputs) + (inputs[0].shape[2] != 32))

    monkeypatch.setattr("lightning_transfer.run.exports.checks.compare", wrong_at_other_sizes)
    axes, figures = write_and_compare(given, "pt2", tmp_path)
    assert tried == [({0: "batch", 2: "height", 3: "width"},), ({0: "batch"},)]
    assert axes == ({0: "batch"},)
    assert len(figures["batches"]) == 3
    assert figures["max_difference"] <= 1e-5


def test_what_torch_warns_of_at_sizes_that_it_cannot_bound_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pooling = [nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(2)]  # as in GoogLeNet
    layers = [nn.Conv2d(3, 4, 3, 2, 1), *pooling, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    axes, _ = write_program(exported(nn.Sequential(*layers)), "pt2", tmp_path)
    assert axes == ({0: "batch", 2: "height", 3: "width"},)
    assert capfd.readouterr().err == ""


class SwinTransformer(nn.Sequential):
    """Has the name of torchvision's."""


@pytest.mark.parametrize(
    "network", [SeedCNN(3), SwinTransformer(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))]
)
def test_network_that_takes_one_size_of_images_is_traced_with_it_at_once(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Axes] = []

    def write(exported: Exported, format: Format, folder: Path) -> tuple[Axes, Any]:
        tried.append(exported.axes)
        return write_program(exported, format, folder)

    monkeypatch.setattr("lightning_transfer.run.exports.checks.write_program", write)
    axes, figures = write_and_compare(exported(network), "pt2", tmp_path)  # else MaxViT would take ten minutes
    assert tried == [axes] == [({0: "batch"},)]
    assert figures["max_difference"] <= 1e-5


def test_file_with_other_numbers_is_refused(tmp_path: Path) -> None:
    given = exported(SeedCNN(3))
    axes, run = write_program(given, "pt2", tmp_path)
    with pytest.raises(UserError, match=r"other numbers than the module on inputs .*images.*: they differ by 2e-05"):
        compare(given, axes, lambda inputs: run(inputs) + 2e-5)
    with pytest.raises(UserError, match="other numbers"):
        compare(given, axes, lambda inputs: run(inputs) * torch.nan)
    with pytest.raises(UserError, match=r"does not run on inputs .*: division by zero; --format safetensors"):
        compare(given, axes, lambda inputs: 1 / 0 if len(inputs[0]) == 5 else run(inputs))  # type: ignore[arg-type]


def test_command_writes_a_folder_that_says_all(image_run: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    main(["export", str(image_run), "--format", "hub", "--output", "out", "--licence", "apache-2.0"])
    assert "out/model.safetensors: differs from the module by 0 at most, on 3 batches" in capsys.readouterr().out
    names = {"model.safetensors", "preprocessing.json", "export.json", "config.json", "README.md"}
    assert {file.name for file in Path("out").iterdir()} == names
    modes = {file.name: file.stat().st_mode for file in Path("out").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]  # whoever may read one may read the other
    facts = json.loads(Path("out/export.json").read_text())
    assert facts["inputs"] == {"images": "float32 [batch, 3, 32, 32]"}
    assert facts["outputs"] == {"probabilities": "float32 [batch, 3]"}
    assert facts["classes"] == ["class0", "class1", "class2"]
    how = json.loads(Path("out/preprocessing.json").read_text())
    assert how["image_size"] == 32
    assert how["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert json.loads(Path("out/config.json").read_text())["network"]["class_path"] == "lightning_transfer.SeedCNN"
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: lightning-transfer\npipeline_tag: image-class")
    interval = r"val/accuracy: 0\.\d{4} \(95 % interval 0\.\d{4} to 0\.\d{4}, Wilson, n = 9\)"
    assert re.search(interval, card)
    assert "lightning-transfer fit" in card
    main(["export", str(image_run), "--format", "safetensors", "--output", "out"])  # an earlier export is replaced
    assert "license:" not in Path("out/README.md").read_text()


def test_weights_start_another_run_and_fill_the_network(text_run: Any) -> None:  # noqa: F811
    run = text_run("texts")
    main(["export", str(run), "--format", "safetensors", "--output", "out"])
    config = json.loads(Path("out/config.json").read_text())
    sizes = {name: config[name] for name in ("num_classes", "vocabulary_size")}
    network = LSTMClassifier(**{**config["network"]["init_args"], **sizes})
    network.load_state_dict(load_file("out/model.safetensors"))
    tokenizer, how = Tokenizer.from_file("out/tokenizer.json"), json.loads(Path("out/preprocessing.json").read_text())
    tokens = tokenizer.encode("a good film", add_special_tokens=False).ids
    ids = torch.tensor([[*how["before"], *tokens, *how["after"]]])
    expected = load(run).predict(["a good film"]).probabilities
    assert expected is not None
    torch.testing.assert_close(network.eval()(ids, torch.tensor([ids.shape[1]])).softmax(1).detach(), expected)


@needs_onnx
def test_page_predicts_as_written(image_run: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    [program] = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "export.md").read_text(), re.DOTALL)
    main(["export", str(image_run), "--output", "logs/quickstart/version_0/export/onnx"])
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    capsys.readouterr()
    found: dict[str, Any] = {}
    exec(program, found)
    expected = load(image_run).predict(["cat.png"])
    assert expected.probabilities is not None
    np.testing.assert_allclose(found["probabilities"], expected.probabilities.numpy(), atol=1e-5)
    assert capsys.readouterr().out.startswith(f"{expected.labels[0]} ")  # type: ignore[index]


_EXPORT = {
    **{"inputs": {"images": "float32"}, "outputs": {}, "problem_type": "classification", "network": "SeedCNN"},
    **{"classes": ["cat"], "command": "export", "data": "pictures", "file": "a.onnx", "preprocessing": "how.json"},
    "check": {"batches": [1], "max_difference": 0.0},
}


def test_card_of_a_record_without_a_number_says_the_others() -> None:
    card = model_card("a", None, _EXPORT, {"test": {"test/accuracy": None, "test/loss": 0.5}})
    assert "- test/loss: 0.5000" in card
    assert "- test/accuracy" not in card


@pytest.mark.parametrize("words", ["a: b", "x\ntags: [y]", "---", "*bold* <script>"])
def test_words_of_the_user_stay_words_in_the_card(words: str) -> None:
    card = model_card("a", words, {**_EXPORT, "classes": [words, "dog"]}, {})
    head = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert head == {"license": words, "library_name": "lightning-transfer", "pipeline_tag": "image-classification"}
    assert f"- **Classes:** {escaped(words)}, dog\n" in card
    assert "<script>" not in card.split("\n---\n")[1]


def test_what_cannot_be_exported_is_refused_before_any_work(
    image_run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("mine").mkdir()
    line = error_line(capsys, "export", str(image_run), "--format", "hub", "--output", "mine")
    assert line == "mine is there and holds no export: choose another folder with --output"
    assert error_line(capsys, "export", "nowhere", "--format", "hub").startswith("nowhere has no config.yaml: expected")
    assert not Path("nowhere").exists()
    assert "pt2" in error_line(capsys, "export", str(image_run), "--format", "pt3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error_line(capsys, "export", str(image_run))
    assert line.startswith("export --format onnx needs onnx, which is not installed: ")
    assert line.endswith("'lightning-transfer[export]'")
    assert sys.executable in line
