"""Exports in int8: smaller files, whose loss is measured on examples that the run was not trained on."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import image_dataset, write_parquet
from test_cli import error_line
from test_load import WORDS, image_run, targets, text_run  # noqa: F401  # fixtures
from torch import Tensor

from lightning_transfer import load
from lightning_transfer.cli.entry import main
from lightning_transfer.run.exports.answers import exported_of
from lightning_transfer.run.exports.programs import run_of_onnx

HAS_ONNX = all(find_spec(library) for library in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra export is not installed")


def export(run: Path) -> dict[str, Any]:
    """Exports a run: what export.json says of int8."""
    main(["export", str(run), "--int8", "--output", "out"])
    found: dict[str, Any] = json.loads(Path("out/export.json").read_text())["int8"]
    assert {"model.onnx", "model.int8.onnx"} <= {file.name for file in Path("out").iterdir()}
    assert not Path("out/prepared.onnx").exists()
    return found


def answers(run: Path, count: int) -> tuple[Tensor, Tensor]:
    """What both files say of generated examples."""
    exported = exported_of(load(run, device="cpu").members[0])
    files = [run_of_onnx(Path("out", name), exported.input_names) for name in ("model.onnx", "model.int8.onnx")]
    first, second = (file(exported.examples(count)) for file in files)
    return first, second


@needs_onnx
def test_loss_of_images_is_measured_on_the_validation_and_written(
    image_run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_parquet(Path("set"), train=image_dataset(90), test=image_dataset(30, seed=1))
    found = export(image_run)
    record = json.loads((image_run / "results.json").read_text())
    assert (found["method"], found["split"], found["examples"]) == ("static", "validation", 9)
    assert found["calibration_examples"] == record["data"]["train_examples"] == 81
    assert found["float32"]["accuracy"] == pytest.approx(record["validation"]["val/accuracy"])
    assert found["float32"]["loss"] == pytest.approx(record["validation"]["val/loss"], abs=1e-5)
    assert 0 < found["max_difference"] < 0.2
    assert found["int8"]["loss"] == pytest.approx(found["float32"]["loss"], abs=0.2)
    assert found["bytes"]["model.int8.onnx"] < 0.5 * found["bytes"]["model.onnx"]
    first, second = answers(image_run, 5)
    assert 0 < (first - second).abs().max() < 0.2
    card = Path("out/README.md").read_text()
    assert "`model.int8.onnx` has weights of 8 bits (static, calibrated on 81 training examples)" in card
    assert f"- accuracy: {found['float32']['accuracy']:.4f}, {found['int8']['accuracy']:.4f}\n" in card
    assert f"- largest difference of a probability or number: {found['max_difference']:.4f}\n" in card
    line = f"model.int8.onnx: accuracy {found['float32']['accuracy']:.4f} in float32 and "
    assert line in capsys.readouterr().out


@needs_onnx
def test_matrices_and_recurrence_of_texts_are_in_int8(text_run: Callable[..., Path]) -> None:  # noqa: F811
    run = text_run("texts")
    write_parquet(Path("set"), train=targets(48), test=targets(12))
    found = export(run)
    assert (found["method"], found["calibration_examples"], found["split"]) == ("dynamic", 0, "validation")
    assert 0 < found["max_difference"] < 0.2
    assert (answers(run, 5)[0] - answers(run, 5)[1]).abs().max() < 0.2
    content = Path("out/model.int8.onnx").read_bytes()
    assert b"DynamicQuantizeLSTM" in content
    assert b"DynamicQuantizeLSTM" not in Path("out/model.onnx").read_bytes()


@needs_onnx
def test_loss_that_cannot_be_measured_is_refused_in_one_line(
    image_run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(image_run, "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("path: set\n", "path: /nowhere/set\n"))
    line = error_line(capsys, "export", "run", "--int8", "--output", "out")
    assert line.startswith("--int8 measures its loss on the data of the run: ")
    assert not Path("out").exists()
    line = error_line(capsys, "export", str(image_run), "--int8", "--format", "pt2")
    assert line == "--int8 is given with --format pt2: expected onnx, whose runtime writes it"
