"""Sizes beyond the memory that is free: each is one line that names the value, before the system ends the process."""

import sys
from pathlib import Path

import datasets
import pytest
import torch
from test_cli import error_line

from lightning_transfer import DemoTexts, ImageDataModule, LSTMClassifier
from lightning_transfer.cli.building import within_memory
from lightning_transfer.cli.mistakes import message_of
from lightning_transfer.data import memory
from lightning_transfer.data.label_columns import LabelColumns
from lightning_transfer.errors import UserError

CONFIG = {
    "seed_everything": 2**31,
    "model": {"init_args": {"num_classes": 10, "network": {"init_args": {"hidden_size": 4000, "dropout_seed": 2**31}}}},
    "data": {"init_args": {"batch_size": 50}},
}


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 64 MiB of free memory."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 64 << 20)
    monkeypatch.setattr("lightning_transfer.cli.building.free_bytes", lambda: 64 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a block")
def test_parts_that_are_small_alone_and_too_large_together_are_refused_by_their_largest_number(little: None) -> None:
    found = []
    with pytest.raises(UserError) as caught, within_memory(CONFIG):
        # Some come from memory that earlier tests gave back to this process, which asks for no more.
        found.extend(torch.empty(4 << 20, dtype=torch.uint8) for _ in range(10_000))
    assert str(caught.value) == (
        "model.network.hidden_size is 4000, data.batch_size is 50, model.num_classes is 10: expected sizes for which"
        " the 0.1 GiB of free memory suffice; give smaller ones"
    )
    found = [bytearray(4 << 20) for _ in range(100)]  # the bound ends with the block


@pytest.mark.parametrize("size", [10**9, 2**62, 10**30])
def test_network_beyond_any_memory_is_one_line_with_the_value(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "DemoTexts", "--model.network", "LSTMClassifier", "--model.network.hidden_size", str(size)]
    line = error_line(capsys, "fit", *words, "--trainer.accelerator", "cpu")
    assert line.startswith(f"model.network.hidden_size is {size}, ")
    assert ": expected sizes for which the " in line


def test_layers_without_number_are_refused_before_any_is_built() -> None:
    with pytest.raises(UserError, match=r"network\.num_layers is 1000000000: expected 1 to 1,000"):
        LSTMClassifier(vocabulary_size=10, num_layers=10**9)


@pytest.mark.parametrize("error", [RuntimeError("expected 4 channels"), OverflowError("math range error")])
def test_other_error_of_a_part_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), within_memory(CONFIG):
        raise error


@pytest.mark.parametrize("size", [10**6, 10**9])
def test_images_beyond_the_memory_are_refused_by_their_size(size: int, image_folder: Path, shared_cache: Path) -> None:
    data = ImageDataModule(str(image_folder), image_column="img", image_size=size)
    with pytest.raises(UserError, match=rf"data.image_size is {size}: 90 images take [\d,.]+ GiB of memory, and"):
        data.setup("fit")


def test_images_to_predict_beyond_the_memory_are_refused_by_their_size(little: None, image_folder: Path) -> None:
    data = ImageDataModule(str(image_folder), image_column="img", image_size=5000)
    with pytest.raises(UserError, match=r"data.image_size is 5000: 1 images take 0.1 GiB"):
        data.split_of([torch.zeros(3, 8, 8).numpy()])


@pytest.mark.parametrize("size", [10**9, 10**12, 10**30])
def test_vocabulary_beyond_any_memory_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=rf"data\.max_vocabulary_size is {size}: expected at most 10,000,000"):
        DemoTexts(tokenizer="byte_level_bpe", max_vocabulary_size=size)


def rows_of(labels: object, feature: object = None) -> datasets.Dataset:
    features = datasets.Features({"label": feature}) if feature is not None else None
    return datasets.Dataset.from_dict({"label": labels}, features=features)


@pytest.mark.parametrize(
    "rows",
    [
        lambda: rows_of(range(100_001)),
        lambda: rows_of([0, 1], datasets.ClassLabel(100_001)),
        lambda: rows_of([str(number // 2) for number in range(200_002)]),
    ],
    ids=["numbers", "class labels", "words"],
)
def test_more_classes_than_any_network_has_are_refused(rows: object) -> None:
    with pytest.raises(UserError, match="has 100,001 classes: expected at most 100,000; name another label_column, or"):
        LabelColumns("classification", "label").class_names(rows(), "train")


def test_two_labels_far_apart_are_two_classes() -> None:
    rows = rows_of([0, 2**62, 0])
    names = LabelColumns("classification", "label").class_names(rows, "train")
    assert LabelColumns("classification", "label").read(rows, "train", names).tolist() == [0, 1, 0]


def test_several_classes_of_many_rows_beyond_the_memory_are_refused(little: None) -> None:
    rows = rows_of([[f"c{number}"] for number in range(5000)])
    columns = LabelColumns("multilabel", "label")
    with pytest.raises(UserError, match=r"has 5,000 classes: labels of 5,000 rows take 0.1 GiB of memory"):
        columns.read(rows, "train", columns.class_names(rows, "train"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 7.28 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ..."),
    ],
    ids=["python", "numpy", "torch", "accelerator"],
)
def test_memory_that_ends_while_a_run_goes_on_is_one_line(error: Exception) -> None:
    line = message_of(error)
    assert line is not None
    assert line.startswith("there is not enough memory: give smaller sizes, as of data.batch_size")
    assert "\n" not in line


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limit").write_text("4096\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "none"),))
    assert memory.free_bytes() > 4096
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "limit"), str(tmp_path / "gone")))
    assert memory.free_bytes() == 4096
