"""A test on what was trained on: refused where it is the same, counted and said where some of it is."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import fit_arguments, image_dataset, run_folder, write_parquet
from test_cli import error_line
from test_texts import fit_arguments as fit_texts, text_dataset

from lightning_transfer.cli.entry import main
from lightning_transfer.data.overlap import Rows, count_contradictions, count_shared

TESTED = ("--test_after_fit", "true", "--dashboards", "null")


def rows(*contents: bytes) -> Rows:
    return Rows(np.frombuffer(b"".join(contents), np.uint8), np.cumsum([0, *map(len, contents)]))


def test_rows_are_compared_whole_and_each_test_row_is_counted() -> None:
    middle = b"m" * 5000
    train = rows(b"a" + middle + b"a", b"b" + middle + b"b", b"short", b"", b"twice", b"twice")
    assert count_shared(train, rows(b"a" + middle + b"b", b"c" + middle + b"c")) == 0  # equal in the middle alone
    assert count_shared(train, rows(b"b" + middle + b"b", b"a" + middle + b"b", b"twice", b"twice", b"Short")) == 3
    assert count_shared(train, rows()) == 0
    ids = Rows(np.arange(20, dtype=np.int32), np.array([0, 5, 5, 20]))
    assert count_shared(ids, Rows(np.arange(5, dtype=np.int32), np.array([0, 5]))) == 1


def test_equal_rows_with_different_labels_are_counted_and_said(recwarn: pytest.WarningsRecorder) -> None:
    middle = b"m" * 5000
    found = rows(b"cat", b"dog", b"cat", b"a" + middle + b"a", b"b" + middle + b"b", b"cat", b"dog")
    assert count_contradictions("train", found, np.array([0, 1, 2, 0, 1, 0, 1])) == 3
    [warning] = recwarn
    assert str(warning.message) == (
        "3 examples of train occur with different labels (rows 0, 2, 5): no model fits them all"
    )
    assert count_contradictions("train", found, np.array([0, 1, 0, 0, 1, 0, 1])) == 0
    assert count_contradictions("train", rows(), np.array([], np.int64)) == 0
    assert len(recwarn) == 1


def test_examples_with_different_labels_are_in_the_record(tmp_path: Path) -> None:
    train = image_dataset(90)
    other = train.select([0]).map(lambda row: {"label": (row["label"] + 1) % 3})
    folder = write_parquet(tmp_path / "set", train=datasets.concatenate_datasets([train, other]), test=image_dataset(9))
    with pytest.warns(UserWarning, match=r"2 examples of train occur with different labels \(rows 0, 90\)"):
        main(fit_arguments(folder, "--dashboards", "null"))
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["data"]["training_examples_with_different_labels"] == 2


def test_training_split_under_another_name_is_no_test(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = fit_arguments(image_folder, "--data.test_split", "train", *TESTED)
    assert error_line(capsys, *same) == "data.test_split is train, the split to train on: expected another one"
    part = fit_arguments(image_folder, "--data.test_split", "train[:30%]", *TESTED)
    assert error_line(capsys, *part) == (
        "27 of 27 examples of data.test_split train[:30%] are in train too: expected a split that was not trained on"
    )
    assert not list(Path("logs").rglob("*.ckpt"))
    halves = ["--data.train_split", "train[:50%]", "--data.test_split", "train[50%:]"]
    main(fit_arguments(image_folder, *halves, *TESTED))
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["data"]["test_examples_in_training_split"] == 0
    checkpoint = str(run_folder() / "checkpoints" / "last.ckpt")
    command = ["--config", str(run_folder() / "config.yaml"), "--ckpt_path", checkpoint, "--data.test_split"]
    assert "are in train[:50%] too" in error_line(capsys, "test", *command, "train")
    main(["predict", *command, "train[:50%]"])  # which is asked of anything


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_examples_that_test_and_training_share_are_counted_and_said(kind: str, tmp_path: Path) -> None:
    if kind == "images":
        train, test = image_dataset(90), image_dataset(30, seed=1)
    else:
        train, test = text_dataset(80), text_dataset(30, more="surprisingly good")
    both = datasets.concatenate_datasets([test, train.select([3, 5])])
    folder = write_parquet(tmp_path / "set", train=train, test=both)
    arguments = fit_arguments(folder, *TESTED) if kind == "images" else fit_texts(folder, *TESTED)
    with pytest.warns(
        UserWarning, match=r"2 of 32 examples of data.test_split test are in train too \(6.2 %\)"
    ) as said:
        main(arguments)
    assert sum("are in train too" in str(warning.message) for warning in said) == 1
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["data"]["test_examples_in_training_split"] == 2


@pytest.mark.mirror
@pytest.mark.slow
def test_known_duplicates_of_imdb_are_found(mirror: Path) -> None:
    from lightning_transfer import IMDB

    data = IMDB()
    assert count_shared(*(data.content_of(data.read_split(name)) for name in ("train", "test"))) == 123
