"""Generated folder trees: rows, labels and splits are those of a plain reference reader, or there is one error line."""

import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from lightning_transfer.data.hub import load_split, split_names
from lightning_transfer.data.reading.class_folders import divide
from lightning_transfer.errors import UserError

NAMES = [
    "cat",
    "dog",
    "1",
    "2",
    "10",
    "test",
    "train",
    "dev",
    "val",
    "images",
    "bullet train",
    "test tube",
    "ü [x]",
    "猫",
]
SPLITS = {"train": ["train", "Train", "TRAINING", "train_images"], "validation": ["val", "Valid", "dev"],
          "test": ["test", "Testing", "TEST", "test_set"]}  # fmt: skip
HIDDEN = [".DS_Store", "._0.png", ".ipynb_checkpoints/0.png", "Thumbs.db"]


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[str], Counter[tuple[str, str, str]]]:
    """Files of splits and classes, and what a person would say of them: split, class and file, each once."""
    suffix = draw(st.sampled_from(["png", "jpg", "txt"]))
    wrapper = draw(st.sampled_from(["", "set/", "set/set/"]))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    files, expected = [], Counter[tuple[str, str, str]]()
    splits = ["train", *draw(st.lists(st.sampled_from(["validation", "test"]), unique=True))]
    for split in splits:
        folder = draw(st.sampled_from(SPLITS[split]))
        inner = draw(st.sampled_from(["", "", "images/"])) if "images" not in names else ""
        of_split = names if split == "train" else draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        for name in of_split:
            deeper = draw(st.sampled_from(["", "", "patient 1/"]))
            for number in range(draw(st.integers(1, 3))):
                files.append(f"{wrapper}{folder}/{inner}{name}/{deeper}{number}.{suffix}")
                expected[split, name, files[-1]] += 1
        files += [f"{wrapper}{folder}/{inner}{name}/{hidden}" for name in of_split[:1]
                  for hidden in draw(st.lists(st.sampled_from(HIDDEN), max_size=2, unique=True))]  # fmt: skip
    return files, expected


def _tree(*files: tuple[str, str, str]) -> tuple[list[str], Counter[tuple[str, str, str]]]:
    return [file for *_, file in files], Counter(files)


WRAPPED = [("train", "train", "train/images/train/0.png"), ("train", "test", "train/images/test/0.png")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(_tree(*WRAPPED, ("test", "test", "test/test/0.png")))
@example(_tree(*WRAPPED, ("test", "test", "test/test/patient 1/0.png")))
@given(trees())
@pytest.mark.usefixtures("no_mirror")
@pytest.mark.filterwarnings("ignore:data set")
def test_every_file_of_a_tree_is_in_its_split_and_class(drawn: tuple[list[str], Counter[tuple[str, str, str]]]) -> None:
    files, expected = drawn
    with TemporaryDirectory() as folder:
        for name in files:
            file = Path(folder) / "a [set]" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode())
        path = os.fspath(Path(folder) / "a [set]")
        found = Counter[tuple[str, str, str]]()
        assert len(split_names(path)) == len({split for split, _, _ in expected})
        for split in {split for split, _, _ in expected}:
            dataset = load_split(path, split, label_column="label")
            labels = dataset.features["label"].int2str(dataset["label"][:])
            found.update((split, label, file) for label, file in zip(labels, dataset["file_name"], strict=True))
            if "text" in dataset.column_names:
                assert dataset["text"][:] == dataset["file_name"][:]
    assert found == expected


PARTS = st.sampled_from([*NAMES, "train", "test", "unsup", "a", "b"])
PATHS = st.lists(st.builds(lambda folders, name: "/".join([*folders, f"{name}.png"]), st.lists(PARTS, max_size=4),
                           st.integers(0, 3)), min_size=1, max_size=12, unique=True)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PATHS)
@example(["train/a/0.png", "0.png"])
@example(["train/unsup/0.png"])
@example(["train/images/0.png", "train/dog/0.png", "test/images/patient/0.png"])
def test_any_tree_is_divided_without_a_loss_that_is_not_said(files: list[str]) -> None:
    found = divide(files)
    placed = [file for split in found.splits.values() for file in split]
    assert len(placed) == len(set(placed))  # each in one split
    left_out = set(files) - set(placed)
    assert not left_out or any("left out" in note for note in found.notes)
    assert set(placed) <= set(files)
    for file, name in found.classes.items():
        assert name in file.split("/")[:-1]  # the class is a folder that the file lies in
    for split in found.splits.values():
        assert len({file in found.classes for file in split}) <= 1  # all have a class, or none


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["train", "Test", "val", "x"]), st.integers(1, 3)), min_size=1, max_size=4))
@pytest.mark.usefixtures("no_mirror")
@pytest.mark.filterwarnings("ignore:data set")
def test_rows_of_tables_are_in_the_splits_of_their_names(drawn: list[tuple[str, int]]) -> None:
    expected = Counter[str]()
    with TemporaryDirectory() as folder:
        for place, (word, rows) in enumerate(drawn):
            text = "text,label\n" + "".join(f"row {place} {row},{row}\n" for row in range(rows))
            (Path(folder) / f"{word}_{place}.csv").write_text(text)
            expected[word.lower()] += rows
        words = [word for word in ("train", "test", "val") if word in expected]
        for word in words or ["train"]:
            assert len(load_split(folder, word)) == expected[word if words else "x"]
        for word in {"train", "test"} - {*(words or ["train"])}:
            with pytest.raises(UserError, match=f"has no split '{word}'"):
                load_split(folder, word)
