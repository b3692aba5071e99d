"""Writes predictions as JSON Lines or as a table: one line for each example, whose row the loader has to know."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.data.batches import ProblemType, are_shares
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_file, replacing, writable

SEPARATORS = {".csv": ",", ".tsv": "\t"}  # of the columns of a table, by the suffix of its file
_OF_OTHER_FORMATS = frozenset(
    {".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arrow", ".gz", ".zip", ".html", ".npy"}
)

# For each problem type the expected predictions in words, and a function that checks each row or value.
_KINDS: dict[ProblemType, tuple[str, Callable[[Tensor], Tensor]]] = {
    "classification": ("class probabilities, [batch, {}], rows that sum to 1", are_shares),
    "multilabel": ("probabilities, [batch, {}], from 0 to 1", lambda rows: (rows >= 0) & (rows <= 1)),
    "regression": ("numbers, [batch, {}]", torch.isfinite),
}


class KnownRows(L.Callback):
    """Refuses, before the first batch, an evaluation whose loader does not know the rows of its batches."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a prediction."""
        _require_rows(trainer.predict_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a test."""
        _require_rows(trainer.test_dataloaders)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a validation."""
        _require_rows(trainer.val_dataloaders)


def _require_rows(loader: object) -> None:
    if not isinstance(loader, BatchLoader):
        raise UserError(
            f"a {type(loader).__name__} does not say which rows its batches are of: expected a DataLoader that takes a"
            " map-style data set in its order or shuffled, in batches, and one process"
        )


def class_names_of(data: object, module: object) -> tuple[list[str], ProblemType]:
    """Finds what a run predicts, for any data module and module.

    Args:
        data: The data module; its ``class_names`` count first, then its ``num_classes`` and the module's.
        module: The module.

    Returns:
        The names of the classes or numbers, and the problem type.

    Raises:
        UserError: If neither says how many classes there are.
    """
    of_module: ProblemType = getattr(module, "problem_type", "classification")
    problem_type: ProblemType = getattr(data, "problem_type", None) or of_module
    names = getattr(data, "class_names", None)
    if names is None:
        count = getattr(data, "num_classes", None) or getattr(module, "num_classes", None)
        if count is None:
            raise UserError(
                f"neither {type(data).__name__} nor {type(module).__name__} has num_classes: expected one, or"
                " class_names of the data"
            )
        names = range(count)
    return [str(name) for name in names], problem_type


def write_predictions(
    output: Path, batches: list[Tensor], loader: BatchLoader, class_names: list[str], problem_type: ProblemType
) -> int:
    """Writes the name and the prediction of each example, in the order of the input; see :func:`write_lines`.

    Args:
        output: The file to write.
        batches: Probabilities or numbers, float [batch, classes] each, in the order of the loader's batches.
        loader: The loader, which knows the rows of the batches and what they are called.
        class_names: The names of the classes or numbers.
        problem_type: What each example has.

    Returns:
        The number of examples.

    Raises:
        UserError: If the batches hold anything else than the problem type predicts, or the file cannot be written.
    """
    for batch in batches:
        require_predictions(batch, len(class_names), problem_type)
    names = loader.names(len(batches))
    write_lines(output, names, loader.in_order(batches), class_names, problem_type)
    return len(names)


def check_predictions_file(file: Path, option: str = "--output") -> None:
    """Checks that predictions can be written into a file.

    Args:
        file: The file.
        option: Option of the command line that chooses another file.

    Raises:
        UserError: If it cannot, or its name is that of another format.
    """
    if file.suffix.lower() in _OF_OTHER_FORMATS:
        raise UserError(f"{option} is {file}: expected a name that ends in .jsonl, or in .csv or .tsv for a table")
    check_file(file, option)


def write_lines(
    output: Path,
    names: Sequence[str | int],
    predictions: Tensor,
    class_names: Sequence[str],
    problem_type: ProblemType,
    option: str = "--output",
) -> None:
    """Writes predictions whole or not at all: as JSON Lines, or as a table if the file ends in .csv or .tsv.

    The prediction is the class and the probabilities of all classes. If an example may have several classes, it names
    those whose probability is at least a half. In a regression it is the numbers. A table has a column for each entry,
    such as ``probabilities.cat``.

    Args:
        output: The file to write.
        names: What each example is called.
        predictions: Probabilities or numbers, float [examples, classes].
        class_names: Names of the classes or numbers.
        problem_type: What each example has.
        option: Option of the command line that chooses another file.

    Raises:
        UserError: If the file cannot be written.
    """
    lines = (
        {"name": name, **in_words(dict(zip(class_names, values, strict=True)), problem_type)}
        for name, values in zip(names, predictions.tolist(), strict=True)
    )
    separator = SEPARATORS.get(output.suffix.lower())
    # A name may hold bytes that are not UTF-8: they are written as they were read.
    with (
        writable(output, option),
        replacing(output) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        if separator is None:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        else:
            csv.writer(file, delimiter=separator, lineterminator="\n").writerows(_rows_of_table(lines))


def places_of_classes(names: Sequence[str], order: Sequence[str]) -> Tensor:
    """Finds the columns of classes, int64 [classes]: those of ``names`` in the order of another run's.

    Args:
        names: The names of the classes.
        order: The same names in the order of the other run.
    """
    return torch.tensor([[*names].index(name) for name in order])


def _rows_of_table(lines: Iterable[Mapping[str, Any]]) -> Iterable[list[Any]]:
    for number, line in enumerate(lines):
        flat: dict[str, Any] = {}
        for key, value in line.items():
            if isinstance(value, dict):
                flat |= {f"{key}.{name}": one for name, one in value.items()}
            else:
                flat[key] = json.dumps(value) if isinstance(value, list) else value
        if number == 0:
            yield list(flat)
        yield list(flat.values())


def in_words(by_name: dict[str, float], problem_type: ProblemType) -> dict[str, Any]:
    """Words a prediction: ``class`` and ``probabilities``, ``classes`` from a half on and these, or ``values``.

    Args:
        by_name: The probability of each class, or each number, by its name.
        problem_type: What each example has.
    """
    if problem_type == "regression":
        return {"values": by_name}
    if problem_type == "multilabel":
        return {"classes": [name for name, value in by_name.items() if value >= 0.5], "probabilities": by_name}
    return {"class": max(by_name, key=by_name.__getitem__), "probabilities": by_name}


def require_predictions(batch: object, count: int, problem_type: ProblemType) -> None:
    """Checks what a ``predict_step`` gives for a batch.

    Args:
        batch: What it gives.
        count: Number of classes, or of numbers.
        problem_type: What each example has.

    Raises:
        UserError: For anything else than the problem type predicts.
    """
    kind, of_kind = _KINDS[problem_type]
    shape = list(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
    if isinstance(batch, Tensor) and batch.ndim == 2 and batch.shape[1] == count:
        if bool(of_kind(batch).all()):
            return
        shape = "other numbers"
    raise UserError(f"predict_step gives {shape}: expected {kind.format(count)}")
