"""Labels as people write them: each is a class by its name, or one line says which row is wrong."""

import json
import unicodedata
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import run_folder

from lightning_transfer.cli.entry import main
from lightning_transfer.data.label_columns import LabelColumns
from lightning_transfer.data.labels import check_classes
from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.errors import UserError

ONE_CLASS = LabelColumns("classification", "label")
SEVERAL = LabelColumns("multilabel", "label")
LARGE = 2**62


def column(labels: Any, feature: Any = None) -> datasets.Dataset:
    features = datasets.Features({"label": feature}) if feature is not None else None
    return datasets.Dataset.from_dict({"label": labels}, features=features)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([4, 1, 2, 3], ["1", "2", "3", "4"]),
        ([0, 1, 3], ["0", "1", "3"]),
        ([30000, 10001], ["10001", "30000"]),
        ([LARGE, 0], ["0", str(LARGE)]),
        (np.array([2**63 + 5, 0], np.uint64), ["0", str(2**63 + 5)]),
        ([1.0, 0.0], ["0", "1"]),
        (np.array([2, 1], np.float16), ["1", "2"]),
        ([Decimal("2.0"), Decimal("1.0")], ["1", "2"]),
        ([True, False], ["False", "True"]),
        (["NA", "null", "None", "nan"], ["NA", "None", "nan", "null"]),
        (["10", "2"], ["2", "10"]),
        (["class10", "class2"], ["class2", "class10"]),
        (["Cat", "cat"], ["Cat", "cat"]),
    ],
    ids=str,
)
def test_labels_are_the_classes_that_occur_by_their_names(labels: Any, names: list[str]) -> None:
    rows = column([*labels, *labels] if isinstance(labels, list) else np.concatenate([labels, labels]))
    found = ONE_CLASS.class_names(rows, "train")
    assert found == names
    numbers = ONE_CLASS.read(rows, "train", found).tolist()
    written = [str(int(label)) if not isinstance(label, str | bool) else str(label) for label in rows["label"]]
    assert [found[number] for number in numbers] == written


def test_names_with_numbers_are_in_natural_order() -> None:
    assert in_natural_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert in_natural_order(["b10", "b9", "a"]) == ["a", "b9", "b10"]
    assert in_natural_order(["0.5", "0.25", "-1"]) == ["-1", "0.25", "0.5"]
    assert in_natural_order([str(LARGE), str(LARGE - 1)]) == [str(LARGE - 1), str(LARGE)]


@pytest.mark.parametrize("written", [["1", "4"], [1.0, 4.0], [1, 4], [4, 1]], ids=str)
def test_test_split_may_write_numbers_in_another_type(written: list[Any]) -> None:
    labels = ONE_CLASS.read(column(written), "test", ["1", "2", "3", "4"]).tolist()
    assert labels == [int(float(label)) - 1 for label in written]


@pytest.mark.parametrize("nothing", [None, "", "  ", "\ufeff"])
@pytest.mark.parametrize("files", [False, True])
def test_empty_label_is_named_by_its_row(nothing: str | None, files: bool) -> None:
    rows = column(["bad", "good", nothing, "bad", None])
    if files:
        rows = rows.add_column("file_name", [f"train/{row}.txt" for row in range(5)])
    place = "row 2 of split 'train'" + (", train/2.txt" if files else "")
    for split, read in (("train", ONE_CLASS.class_names), ("test", lambda *a: ONE_CLASS.read(*a, ["bad", "good"]))):
        with pytest.raises(UserError) as error:
            read(rows, split)
        start = f"label column 'label' holds nothing in {place.replace('train', split, 1)}: expected bad, good; give"
        assert str(error.value).startswith(start)
        assert ("label_column" in str(error.value)) is not files
    with pytest.raises(UserError, match="holds nothing in row 1 of split 'train'"):
        ONE_CLASS.class_names(column([0.0, float("nan"), 1.0]), "train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 1.0], "label 0.5 in row 0 of split 'train' is no whole number: expected 1; .* to regression"),
        ([1.0, float("inf")], "label inf in row 1 of split 'train' is no whole number"),
        ([0, 1, -1, -1], "label -1 in row 2 of split 'train' is out of range: expected 0 to 1; leave rows without"),
        ([-1, 1, 1], "label -1 in row 0 of split 'train' is out of range: expected 1; .* or as words"),
        ([-1, -1], "split 'train' has no labels to train on: all are -1; name another label_column or train_split"),
        ([None, None], "split 'train' has no labels to train on: all are None"),
        (["cat"] * 3, "label column 'label' of split 'train' has one class, cat: expected two or more"),
        ([7] * 3, "label column 'label' of split 'train' has one class, 7: expected two or more"),
        (["a", "b", "c"], "holds another word in each row"),
        ([[0], [1]], "not one integer or word in each row: .* set data.problem_type to multilabel"),
        ([b"a", b"b"], "not one integer or word in each row"),
    ],
    ids=str,
)
def test_what_names_no_class_is_refused_in_one_line(labels: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        ONE_CLASS.class_names(column(labels), "train")
    assert "\n" not in str(error.value)


def test_spellings_of_one_class_are_read_as_one_and_said() -> None:
    rows = column([" cat", "dog", "cat", "dog\u00a0", "caf\u0065\u0301", "caf\u00e9"])
    with pytest.warns(UserWarning, match=r"read as one: cat \(' cat' and 'cat'\), dog .*, café") as caught:
        names = ONE_CLASS.class_names(rows, "train")
    assert len(caught) == 1
    assert names == ["café", "cat", "dog"]
    assert ONE_CLASS.read(rows, "train", names).tolist() == [1, 2, 1, 2, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ONE_CLASS.class_names(column([" cat", "dog"] * 2), "train") == ["cat", "dog"]


def test_class_labels_keep_all_their_names_and_are_read_by_them() -> None:
    names = ["10", "9", "unused"]
    rows = column([0, 1, 1], datasets.ClassLabel(names=names))
    assert ONE_CLASS.class_names(rows, "train") == names
    other = column([0, 1, 1], datasets.ClassLabel(names=["9", "10"]))
    assert ONE_CLASS.read(other, "test", names).tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="label '9' in row 1 of split 'test' is out of range: expected 10, unused"):
        ONE_CLASS.read(rows, "test", ["10", "unused"])
    for label in (-1, None):
        with pytest.raises(UserError, match="in row 0 of split 'test'"):
            ONE_CLASS.read(column([label], datasets.ClassLabel(names=names)), "test", names)


def test_folder_names_match_however_their_accents_are_written() -> None:
    folders = datasets.ClassLabel(names=[unicodedata.normalize("NFD", "café"), "tea"])
    assert ONE_CLASS.read(column(["café", "tea"]), "test", folders.names).tolist() == [0, 1]
    assert ONE_CLASS.read(column([0, 1], folders), "test", ["tea", "café"]).tolist() == [1, 0]


@pytest.mark.parametrize("own", [["0", "1", "3"], ["3", "0"], ["0", "1", "2", "3"]], ids=str)
def test_labels_are_read_by_the_names_that_the_checkpoint_has(own: list[str]) -> None:
    saved = ["0", "1", "2", "3"]
    check_classes(own, saved)
    assert ONE_CLASS.read(column([int(name) for name in own]), "test", saved).tolist() == [int(name) for name in own]
    with pytest.raises(UserError, match="the checkpoint's classes are 0 to 3, and the data's 0, 4: give data"):
        check_classes(["0", "4"], saved)


@pytest.mark.parametrize(
    ("lists", "names", "expected"),
    [
        ([[10001], [], [30000, 10001]], ["10001", "30000"], [[1, 0], [0, 0], [1, 1]]),
        ([["b ", "a"], ["b"], []], ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
        ([["10", "2"], ["2", "2"]], ["2", "10"], [[1, 1], [1, 0]]),
    ],
)
def test_lists_name_the_classes_that_occur(lists: Any, names: list[str], expected: list[list[int]]) -> None:
    rows = column([*lists, *lists]).select(range(len(lists), 2 * len(lists)))
    assert SEVERAL.class_names(rows, "train") == names
    assert SEVERAL.read(rows, "train", names).tolist() == expected


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            [["a"], None, ["b"]],
            "holds nothing in row 1 of split 'train': expected a list of classes, which may be empty",
        ),
        ([["a"], ["b", None]], "holds nothing in row 1 of split 'train'"),
        ([["a"], [], ["b", ""], None], "holds nothing in row 2 of split 'train'"),
        ([[0, 1], [], [2, -1]], "label -1 in row 2 of split 'train' is out of range: expected one of 0 to 2"),
    ],
)
def test_list_that_holds_what_is_no_class_is_refused_by_its_row(lists: Any, message: str) -> None:
    rows = column(lists)
    with pytest.raises(UserError, match=message):
        SEVERAL.read(rows, "train", SEVERAL.class_names(rows, "train"))


def test_columns_of_several_classes_are_read_in_the_order_of_the_checkpoint() -> None:
    rows = datasets.Dataset.from_dict({"red": [1, 0], "round": [0.0, 0.0]})
    columns = LabelColumns("multilabel", ["round", "red"])
    assert columns.read(rows, "test", ["red", "round"]).tolist() == [[1, 0], [0, 0]]
    with pytest.raises(UserError, match=r"data\.label_column is round, red: expected red, blue, as in the checkpoint"):
        columns.read(rows, "test", ["red", "blue"])


def test_classes_one_to_four_keep_their_names_from_the_fit_to_the_prediction(tmp_path: Path) -> None:
    for split, rows in (("train", 40), ("test", 8)):
        lines = [f"word{row % 4 + 1} of {split} {row},{row % 4 + 1}" for row in range(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    data = ["--data", "TextDataModule", "--data.path", str(tmp_path), "--data.batch_size", "6"]
    small = ["--model.network.embedding_size", "4", "--model.network.hidden_size", "4", "--trainer.accelerator", "cpu"]
    main(
        ["fit", *data, "--model.network", "LSTMClassifier", *small, "--trainer.max_epochs", "1", "--dashboards", "null"]
    )
    checkpoint = run_folder() / "checkpoints" / "best.ckpt"
    assert torch.load(checkpoint, weights_only=True)["TextDataModule"]["class_names"] == ["1", "2", "3", "4"]
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["data"]["training_examples_by_class"] == {"1": 9, "2": 9, "3": 9, "4": 9}
    main(["predict", "--config", str(run_folder() / "config.yaml"), "--ckpt_path", str(checkpoint)])
    for line in Path("predictions.jsonl").read_text().splitlines():
        probabilities = json.loads(line)["probabilities"]
        assert [*probabilities] == ["1", "2", "3", "4"]
        assert json.loads(line)["class"] == max(probabilities, key=probabilities.__getitem__)


def test_word_among_numbers_to_predict_is_named_by_its_row() -> None:
    numbers = LabelColumns("regression", "label")
    for words, wrong in ((["1.5", "NA", "2"], "'NA' in row 1"), (["1", "2", "0,5"], "'0,5' in row 2")):
        with pytest.raises(UserError, match=f"label {wrong} of split 'train' is no number: correct it"):
            numbers.read(column(words), "train", ["label"])
    decimals = column([Decimal("1.5"), Decimal("-2.0")])
    assert numbers.read(decimals, "train", ["label"]).tolist() == [[1.5], [-2.0]]
