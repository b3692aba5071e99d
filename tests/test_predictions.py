"""Files of predictions: a line for each example, by its name, in the order of the input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.run.predictions import check_predictions_file, write_lines

SHARES = torch.tensor([[0.25, 0.75], [0.5, 0.5]])


def table(file: str, separator: str = ",") -> list[list[str]]:
    with Path(file).open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return list(csv.reader(lines, delimiter=separator))


def test_suffix_chooses_between_json_lines_and_a_table() -> None:
    names, classes = ["cats, dogs/1.png", 'a "b".png'], ["cat", "dog, wolf"]
    for file in ("a.jsonl", "a.csv", "a.TSV"):
        write_lines(Path(file), names, SHARES, classes, "classification")
    lines = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "name": names[0],
        "class": "dog, wolf",
        "probabilities": {"cat": 0.25, "dog, wolf": 0.75},
    }
    expected = [
        ["name", "class", "probabilities.cat", "probabilities.dog, wolf"],
        [names[0], "dog, wolf", "0.25", "0.75"],
        [names[1], "cat", "0.5", "0.5"],
    ]
    assert table("a.csv") == table("a.TSV", "\t") == expected


@pytest.mark.parametrize(
    ("problem_type", "header", "row"),
    [
        ("multilabel", ["name", "classes", "probabilities.a", "probabilities.b"], ["0", '["b"]', "0.25", "0.75"]),
        ("regression", ["name", "values.a", "values.b"], ["0", "0.25", "0.75"]),
    ],
)
def test_table_has_a_column_for_each_entry(problem_type: ProblemType, header: list[str], row: list[str]) -> None:
    write_lines(Path("a.csv"), [0, 1], SHARES, ["a", "b"], problem_type)
    assert table("a.csv")[:2] == [header, row]


def test_name_that_is_not_utf8_is_written_as_it_was_read() -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    for file in ("a.csv", "a.jsonl"):
        write_lines(Path(file), [name, "b"], SHARES, ["a", "b"], "classification")
    assert table("a.csv")[1][0] == name
    assert json.loads(Path("a.jsonl").read_text().splitlines()[0])["name"] == name


@pytest.mark.parametrize("name", ["new.xlsx", "new.parquet", "new.csv.gz"])
def test_name_of_another_format_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--output is {name}: expected a name that ends in \.jsonl, or in \.csv or"):
        check_predictions_file(Path(name))


def test_failing_write_is_one_line_and_keeps_the_earlier_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_text("earlier")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write a\.csv: No space left on device; choose another file with --o"):
        write_lines(Path("a.csv"), [0, 1], SHARES, ["a", "b"], "classification")
    assert [file.name for file in Path().iterdir() if file.name != "configs"] == ["a.csv"]
    assert Path("a.csv").read_text() == "earlier"


def test_names_are_those_of_the_rows_read_in_their_order() -> None:
    batches = [np.array([2, 0]), np.array([1])]
    named = BatchLoader(lambda rows: rows, lambda epoch: batches, ["a", "b", "c"])
    assert named.names(2) == ["a", "b", "c"]
    assert named.names(1) == ["a", "c"]
    assert BatchLoader(lambda rows: rows, lambda epoch: batches).names(1) == [0, 2]
