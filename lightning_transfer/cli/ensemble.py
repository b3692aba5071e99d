"""Implements ``lightning-transfer ensemble``: it evaluates finished runs as one, by the mean of their predictions."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.data.batches import ProblemType, parts
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_file, writable, write_json
from lightning_transfer.modules.classifier import Classifier
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.targets import TARGETS
from lightning_transfer.run.predictions import (
    KnownRows,
    check_predictions_file,
    class_names_of,
    places_of_classes,
    write_lines,
)
from lightning_transfer.run.predictor import refuse_repeated
from lightning_transfer.transfer.sources import checkpoint_of

_COMMANDS = {"test": "test", "validation": "validate"}  # by split
_OPTIONS = ("--split", "--output", "--predictions")  # of the ensemble itself, each with a value


class Predictions(NamedTuple):
    """Holds the predictions of a run for a split.

    Attributes:
        rows: Places of the examples in the data, int64 [examples], rising.
        labels: Labels of the examples, int64 [examples].
        probabilities: Class probabilities, or numbers where these are predicted, float32 [examples, classes].
        fingerprints: Fingerprint of each split that was read, which changes with its content, where the data has one.
        problem_type: Whether each example has one class, several classes or numbers.
        own_metrics: The user's own metrics by name.
        names: What each example is called.
        class_names: Names of the classes or numbers.
    """

    rows: Tensor
    labels: Tensor
    probabilities: Tensor
    fingerprints: Mapping[str, str] = MappingProxyType({})
    problem_type: ProblemType = "classification"
    own_metrics: Mapping[str, Metric] = MappingProxyType({})
    names: Sequence[str | int] = ()
    class_names: Sequence[str] = ()


def evaluate_ensemble(
    runs: list[Path],
    split: Literal["test", "validation"] = "test",
    output: Path | None = None,
    arguments: Sequence[str] = (),
    predictions: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluates finished runs, each alone and all as one classifier by the mean of their class probabilities.

    An example is a classifier on a forward language model with one on a backward language model. The command gives any
    other argument to every run, for example --trainer.accelerator cpu.

    Args:
        runs: Folders of the runs, such as logs/EXPERIMENT/VERSION; at least two.
        split: Split to evaluate on.
        output: File for the metrics, as JSON.
        arguments: More words of the command line for every run, for example ``["--trainer.accelerator", "cpu"]``.
        predictions: File for the prediction of each example by all runs together: JSON Lines, or a table if its name
            ends in .csv or .tsv.

    Returns:
        The metrics by name, of each run and of their mean.

    Raises:
        UserError: If a folder has no finished run, or the runs were evaluated on different examples.
    """
    runs = finished_runs(runs, "an ensemble")
    if output:
        check_file(Path(output))
    if predictions:
        check_predictions_file(Path(predictions), "--predictions")
        if output and Path(output).resolve() == Path(predictions).resolve():
            raise UserError(f"--predictions is {predictions}, as --output is: expected two different files")

    members = {str(run): predictions_of(run, split, [*arguments]) for run in runs}
    together = mean(members)
    figures = {name: metrics(member) for name, member in members.items()}
    figures[f"mean of {len(members)}"] = metrics(together)
    print(table(figures))
    if output:
        with writable(Path(output)):
            write_json(Path(output), {"split": split, "metrics": figures})
    if predictions:
        _, _, probabilities, _, problem_type, _, names, class_names = together
        write_lines(Path(predictions), names, probabilities, class_names, problem_type, "--predictions")
    return figures


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("ensemble", evaluate_ensemble, skip={"arguments"})


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    own, others = divide(arguments, _OPTIONS)
    evaluate_ensemble(**parser().parse_args(own).as_dict(), arguments=others)


def divide(words: list[str], options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divides the command line into the words of this command and those that go to every run.

    Args:
        words: What follows the command's name.
        options: Options of the command itself, each with a value.
    """
    own: list[str] = []
    others: list[str] = []
    belongs = own
    remaining = iter(words)
    for word in remaining:
        if word.partition("=")[0] in (*options, "--help", "-h"):
            value = itertools.islice(remaining, 1 if word in options else 0)
            own += [word, *value]
        else:
            belongs = others if word.startswith("-") else belongs
            belongs.append(word)
    return own, others


def finished_runs(runs: Sequence[Path], whole: str, at_least: int = 2) -> list[Path]:
    """Checks that there are enough finished runs, each named once.

    Args:
        runs: Folders of the runs.
        whole: What they are to make, such as ``an ensemble``.
        at_least: The number that is needed. One is enough in a study, where the others may have failed.

    Raises:
        UserError: If there are fewer, one is named twice, or one is not finished.
    """
    runs = [Path(run) for run in runs]
    if len(runs) < at_least:
        raise UserError(f"{whole} of {runs[0] if runs else 'nothing'} alone is that run: name at least two")
    refuse_repeated(runs, whole)
    for run in runs:
        _require_finished(run)
    return runs


def _require_finished(run: Path) -> None:
    for file in ("config.yaml", "results.json"):
        if not (run / file).is_file():
            raise UserError(f"{run} has no {file}: expected the folder of a finished run, as logs/quickstart/version_0")


def predictions_of(run: Path, split: str, others: list[str], checkpoint: Path | None = None) -> Predictions:
    """Evaluates the best checkpoint of a run, or its last where nothing was held out to find the best.

    Args:
        run: Folder of the run.
        split: The split, test or validation.
        others: More arguments of the command line.
        checkpoint: Another checkpoint of the same network, to evaluate in place of the run's.
    """
    files = ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint or checkpoint_of(run))]
    quiet = ["--trainer.enable_progress_bar", "false"]
    with StopSignals() as signals:
        return _Evaluation([_COMMANDS[split], *files, *quiet, *others], signals).collect()


def mean(members: dict[str, Predictions]) -> Predictions:
    """Averages the probabilities. All runs count the same. Their classes may be in different orders.

    Raises:
        UserError: If the examples, labels or classes are not those of the first run.
    """
    first_name, first = next(iter(members.items()))
    members = {name: _in_order(member, first.class_names) for name, member in members.items()}
    (_, first), *others = members.items()
    for name, other in others:
        shared = first.fingerprints.keys() & other.fingerprints.keys()
        if (
            other.probabilities.shape != first.probabilities.shape
            or not (torch.equal(other.rows, first.rows) and torch.equal(other.labels, first.labels))
            or any(other.fingerprints[split] != first.fingerprints[split] for split in shared)
        ):
            raise UserError(
                f"{name} and {first_name} were not evaluated on the same examples: an ensemble needs the same data,"
                " and for the validation split the same data.split_seed"
            )
    probabilities = torch.stack([member.probabilities for member in members.values()]).mean(0)
    return first._replace(probabilities=probabilities)


def _in_order(member: Predictions, class_names: Sequence[str]) -> Predictions:
    """Puts the classes of a run in the order of another run that has the same."""
    if [*member.class_names] == [*class_names] or sorted(member.class_names) != sorted(class_names):
        return member
    places = places_of_classes(member.class_names, class_names)
    labels = places.argsort()[member.labels] if member.labels.ndim == 1 else member.labels[:, places]
    return member._replace(labels=labels, probabilities=member.probabilities[:, places], class_names=class_names)


def metrics(member: Predictions) -> dict[str, float]:
    """Computes the usual loss of the problem type and the scores of an evaluation."""
    _, _, predictions, _, problem_type, own, *_ = member
    targets = TARGETS[problem_type]
    labels = targets.counted(member.labels)
    evaluation = EvaluationMetrics(predictions.shape[1], problem_type, own)
    evaluation.update(targets.loss_of(predictions, member.labels), predictions, labels)
    return {name: value.item() for name, value in evaluation.compute_and_reset().items()}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Writes a line for each run, and one for their mean."""
    width = max(map(len, figures))
    names = dict.fromkeys(name for row in figures.values() for name in row)
    lines = ["".join([f"{'':<{width}}", *(f"{name:>24}" for name in names)])]
    for run, row in figures.items():
        values = [f"{row[name]:>24.4f}" if name in row else f"{'':>24}" for name in names]
        lines.append("".join([f"{run:<{width}}", *values]))
    return "\n".join(lines)


class _Evaluation(CommandLine):
    """Runs ``test`` or ``validate``, and keeps the class probabilities."""

    def test(self, **arguments: Any) -> None:
        self._evaluate(self.trainer.test, arguments)

    def validate(self, **arguments: Any) -> None:
        self._evaluate(self.trainer.validate, arguments)

    def _evaluate(self, evaluate: Any, arguments: dict[str, Any]) -> None:
        if hasattr(self.datamodule, "predict_task"):
            raise UserError(f"{type(self.datamodule).__name__} has several tasks: an ensemble is of runs with one task")
        if not isinstance(self.model, Classifier):
            raise UserError(f"{type(self.model).__name__} gives no class probabilities: an ensemble is of classifiers")
        if self.trainer.world_size > 1:
            raise UserError(f"ensemble runs in one process, not {self.trainer.world_size}: set --trainer.devices 1")
        self.kept = _Keep()
        self.trainer.callbacks += [KnownRows(), self.kept]  # type: ignore[attr-defined]
        evaluate(**{**arguments, "verbose": False})
        if not self.kept.batches:
            raise UserError("a run that held nothing out has no validation split: leave --split at test")

    def collect(self) -> Predictions:
        """Puts the kept batches together, in the order of the data."""
        loader: Any = self.trainer.test_dataloaders or self.trainer.val_dataloaders
        count = len(self.kept.batches)
        labels, probabilities = map(loader.in_order, zip(*self.kept.batches, strict=True))
        facts = getattr(self.datamodule, "facts", {})
        fingerprints, own = facts.get("fingerprints", {}), self.model.test_metrics.own
        class_names, problem_type = class_names_of(self.datamodule, self.model)
        return Predictions(
            loader.rows(count),
            labels,
            probabilities,
            fingerprints,
            problem_type,
            own,
            loader.names(count),
            class_names,
        )


class _Keep(L.Callback):
    """Keeps labels and class probabilities of every batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *batch: Any) -> None:
        self._keep(outputs, *batch)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *batch: Any
    ) -> None:
        self._keep(outputs, *batch)

    def _keep(self, probabilities: Tensor, batch: Any, *_: int) -> None:
        self.batches.append((parts(batch)[1].cpu(), probabilities.cpu()))
