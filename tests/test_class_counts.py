"""What is said of the classes before a training: their counts, those without an example, those written alike."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import fit_arguments, image_dataset, run_folder, write_parquet
from test_cli import error_line

from lightning_transfer import TextDataModule
from lightning_transfer.cli.entry import main
from lightning_transfer.data.class_counts import announce_classes, counts_in_words
from lightning_transfer.data.splits import split_train_validation
from lightning_transfer.errors import UserError

LINES = "lightning.pytorch.utilities.rank_zero"


def texts(folder: Path, train: Sequence[Any], test: Sequence[Any] = (), **arguments: Any) -> TextDataModule:
    """Texts with these labels."""
    for split, labels in (("train", train), ("test", test or train)):
        rows = [{"text": f"a film {row}", "label": label} for row, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return TextDataModule(str(folder), batch_size=2, **arguments)


def as_fit(data: TextDataModule) -> TextDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def test_counts_are_those_of_what_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LINES):
        data = as_fit(texts(tmp_path, [3] * 20 + [1] * 10 + [12] * 10, validation_fraction=0.2))
    assert "training examples by class: 1 8, 3 16, 12 8" in caplog.messages
    assert data.class_counts.tolist() == [8, 16, 8]
    assert data.facts["training_examples_by_class"] == {"1": 8, "3": 16, "12": 8}


def test_line_of_many_classes_is_short() -> None:
    counts = np.full(30_001, 7)
    counts[[5, 9]] = 2, 1_000
    line = counts_in_words(counts, [str(name) for name in range(30_001)])
    assert line == "training examples by class: 30,001 classes, from 2 (5) to 1,000 (9)"


def test_name_with_a_line_break_stays_in_the_line() -> None:
    assert counts_in_words(np.array([1, 2]), ["a\nb", "c"]) == r"training examples by class: 'a\nb' 1, c 2"


def test_labels_of_several_classes_are_counted_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LINES):
        as_fit(texts(tmp_path, [["a", "b"], ["a"], []] * 4, problem_type="multilabel", validation_fraction=0))
    assert "training examples by class: a 8, b 4" in caplog.messages


def test_every_class_without_a_training_example_is_named() -> None:
    with pytest.warns(UserWarning, match="no example to train on of 2 of 4 classes, which are never learned: b, d$"):
        announce_classes(np.array([3, 0, 2, 0]), ["a", "b", "c", "d"], "train")


@pytest.mark.parametrize(
    "names", [["Cat", "cat"], ["new york", "New_York"], ["1", "1.0"], ["01", "1"], ["\uff11", "1"]]
)
def test_names_that_are_written_alike_are_said(names: list[str]) -> None:
    with pytest.warns(UserWarning, match=f"only in their writing.*: {names[0]!r} and {names[1]!r}; correct"):
        announce_classes(np.array([1, 1, 1]), [*names, "other"], "train")


@pytest.mark.filterwarnings("error")
def test_names_that_differ_are_not_said_to_be_alike() -> None:
    names = ["-1", "1", "nan", "inf", str(2**62), str(2**62 + 1), "cat", "cats"]
    announce_classes(np.ones(len(names), np.int64), names, "train")


def test_class_that_only_the_test_split_has_is_named_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = image_dataset(30), image_dataset(30, seed=1)
    rare = train.filter(lambda row: row["label"] != 2, load_from_cache_file=False)
    folder = write_parquet(tmp_path / "set", train=rare, test=test)
    line = error_line(capsys, *fit_arguments(folder, "--test_after_fit", "true"))
    assert "split 'test' has classes without an example in split 'train', class2: expected" in line
    with pytest.warns(UserWarning, match="no example to train on of 1 of 3 classes, which are never learned: class2"):
        main(fit_arguments(folder))
    assert json.loads((run_folder() / "results.json").read_text())["data"]["training_examples_by_class"]["class2"] == 0


def test_word_that_only_the_test_split_has_is_named_before_the_training(tmp_path: Path) -> None:
    data = texts(tmp_path, ["bad", "good"] * 4, ["bad", "so so"])
    data.test_follows = True
    with pytest.raises(UserError, match="label 'so so' in row 1 of split 'test' is out of range: expected bad, good"):
        data.prepare_data()


def test_classes_with_too_few_examples_are_named(tmp_path: Path) -> None:
    message = (
        r"class fish has 0 rows to train on \(1 less 1 held out for validation\): 1 are too many, set"
        r" data\.validation_fraction 0 or leave the class out; likewise owl"
    )
    data = texts(tmp_path, ["cat"] * 9 + ["fish", "owl"])
    with pytest.raises(UserError, match=message):
        as_fit(data)


def test_hold_out_of_many_classes_is_that_of_each_class_alone() -> None:
    labels = np.random.default_rng(0).integers(0, 50, 1_000) * 3
    train, validation = split_train_validation(labels, validation_fraction=0.3, seed=4)
    expected = []
    for label in np.unique(labels):
        rows = np.random.default_rng([4, int(label)]).permutation(np.flatnonzero(labels == label))
        expected += rows[: round(0.3 * len(rows))].tolist()
    assert validation.tolist() == sorted(expected)
    assert sorted([*train, *validation]) == list(range(1_000))


def test_checkpoint_with_other_order_numbers_the_labels_anew_in_an_evaluation_and_is_refused_in_a_fit(
    tmp_path: Path,
) -> None:
    saved = texts(tmp_path, ["1", "10", "2"] * 4).state_dict() | {"class_names": ["1", "10", "2"]}
    data = as_fit(texts(tmp_path, ["1", "10", "2"] * 4))
    assert data._split("train").labels[:3].tolist() == [0, 2, 1]
    data.load_state_dict(saved)
    assert data.class_names == ["1", "10", "2"]
    assert data._split("train").labels[:3].tolist() == [0, 1, 2]
    data = as_fit(texts(tmp_path, ["1", "10", "2"] * 4))
    data.trainer = type("Fitting", (), {"training": True})()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"classes are 1, 10, 2, and the data's 1, 2, 10: .* in the same order"):
        data.load_state_dict(saved)
