"""Implements ``lightning-transfer soup``: it averages the weights of finished runs into one checkpoint."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_transfer.cli.ensemble import divide, finished_runs, table
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.cli.soup_record import record_of_soup, records_of, refuse_other_run
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_file, check_folder, write_json, write_text
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO
from lightning_transfer.run.reading import read_checkpoint
from lightning_transfer.transfer.sources import checkpoint_of

Weights = Mapping[str, Tensor]
Metrics = dict[str, float]  # by their names without the split

_OPTIONS = ("--output", "--recipe", "--split", "--run_folder", "--metric", "--mode")  # of the soup, each with a value
# What a state of data says of the meaning of inputs and outputs.
_MEANING = ("class_names", "tokenizer", "mean", "std", "window", "image_size")
# A soup has not been trained: it keeps what evaluates, not what goes on with a training.
_OF_TRAINING = (
    *("callbacks", "optimizer_states", "lr_schedulers", "loops", "interval"),
    *("current_model_state", "averaging_state", "adapted_state_dict"),
)


class Chosen(NamedTuple):
    """The runs that go into a soup.

    Attributes:
        runs: Their folders.
        validation: The metrics of the soup on the validation split; None where it was not evaluated there.
    """

    runs: list[Path]
    validation: Metrics | None = None


def make_soup(
    runs: list[Path],
    output: Path = Path("soup.ckpt"),
    recipe: Literal["uniform", "greedy"] = "uniform",
    split: Literal["test", "validation"] = "test",
    arguments: Sequence[str] = (),
    run_folder: Path | None = None,
    metric: str | None = None,
    mode: Direction | None = None,
) -> dict[str, Metrics]:
    """Averages the weights of finished runs into one checkpoint, and evaluates each and their mean.

    The runs are of one network from one start, such as the runs by which a study has chosen a learning rate. The
    command gives any other argument to every run, for example --trainer.accelerator cpu.

    Args:
        runs: Folders of the runs, such as logs/EXPERIMENT/VERSION; at least two.
        output: File of the new checkpoint, which ``test``, ``predict`` and ``--init_from`` take as any other.
        recipe: Whether all runs go in (uniform), or those that make the validation no worse, tried one after another
            with the best first (greedy).
        split: Split to evaluate on at the end.
        arguments: More words of the command line for every run, for example ``["--trainer.accelerator", "cpu"]``.
        run_folder: Folder in which to leave the soup as a finished run, in place of ``output``: with its checkpoint,
            its config and a results.json that has validation and test. The single runs are then not tested.
        metric: Metric of the validation by which greedy chooses: the accuracy if not given, or the loss where there is
            none. Of equal values the lower loss is better.
        mode: Whether a lower (min) or a higher (max) value of the metric is better, where its name does not say.

    Returns:
        The metrics by name, of each run that went in and of the soup.

    Raises:
        UserError: If a folder has no finished run, the runs are not of one network, or they do not log the metric. Also
            for private runs.

    Source:
        Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, 2022.
    """
    runs = finished_runs(runs, "a soup", at_least=2 if run_folder is None else 1)
    output = Path(output) if run_folder is None else Path(run_folder) / "checkpoints" / "best.ckpt"
    if run_folder is None:
        check_file(output)
        if output.resolve() in {checkpoint_of(run).resolve() for run in runs}:
            raise UserError(f"--output is {output}, a checkpoint of the runs: expected another file")
    else:
        refuse_other_run(Path(run_folder))
        check_folder(output.parent, "--run_folder")
    records = {} if run_folder is None else records_of(runs)  # refused now what would be after all evaluations
    checkpoints = {run: read_checkpoint(checkpoint_of(run)) for run in runs}
    if private := [run for run, checkpoint in checkpoints.items() if checkpoint.get("privacy")]:
        raise UserError(
            f"{private[0]} is a private run: expected others, as a soup costs the epsilons of all its runs together,"
            " which its file would not say"
        )
    weights = {run: checkpoint["state_dict"] for run, checkpoint in checkpoints.items()}
    _check_same_network(weights)
    _check_same_data(checkpoints)
    soup = _Soup(weights, checkpoints, output, [*arguments])
    chosen = soup.greedy(metric, mode) if recipe == "greedy" else Chosen(runs)
    soup.write(chosen.runs)
    if run_folder is not None:
        options = {"recipe": recipe, "metric": metric, "mode": mode, "run_folder": run_folder}
        words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        command = shlex.join(["lightning-transfer", "soup", *map(str, runs), *words, *arguments])
        record, figures = _leave_run(Path(run_folder), soup, chosen, [records[run] for run in chosen.runs])
        write_json(Path(run_folder) / "results.json", {**record, "command": command})
    else:
        figures = {str(run): soup.evaluate(run, split).logged for run in chosen.runs}
        figures[f"soup of {len(chosen.runs)}"] = soup.evaluate(chosen.runs[0], split, output).logged
    print(table(figures))
    print(f"checkpoint: {output}")
    return figures


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("soup", make_soup, skip={"arguments"})


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    own, others = divide(arguments, _OPTIONS)
    make_soup(**parser().parse_args(own).as_dict(), arguments=others)


def mean_weights(weights: Sequence[Weights]) -> dict[str, Tensor]:
    """Averages the weights of several networks of one kind, in double precision.

    Args:
        weights: The weights of each by name. Whole numbers, such as counters, are taken from the first.
    """
    first = weights[0]
    return {
        name: torch.stack([other[name].double() for other in weights]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


class _Evaluation(CommandLine):
    """Runs ``test`` or ``validate``, and keeps the metrics that the module logs."""

    logged: Metrics

    def test(self, **arguments: Any) -> None:
        self._evaluate(self.trainer.test, arguments)

    def validate(self, **arguments: Any) -> None:
        self._evaluate(self.trainer.validate, arguments)

    def after_test(self) -> None:
        """Prints nothing: the soup has a table."""

    after_validate = after_test

    def _evaluate(self, evaluate: Any, arguments: dict[str, Any]) -> None:
        if self.trainer.world_size > 1:
            raise UserError(f"soup runs in one process, not {self.trainer.world_size}: set --trainer.devices 1")
        found = evaluate(**{**arguments, "verbose": False})
        self.logged = {
            name.partition("/")[2] or name: value for of_a_loader in found for name, value in of_a_loader.items()
        }
        if not self.logged:
            raise UserError("a run that held nothing out has no validation split: leave --split at test")


class _Soup:
    """The runs of a soup: their weights and checkpoints, the file of the mean, and arguments for evaluations."""

    def __init__(
        self, weights: Mapping[Path, Weights], checkpoints: Mapping[Path, Any], output: Path, others: list[str]
    ) -> None:
        self.weights, self.checkpoints, self.output, self.others = weights, checkpoints, output, others

    def evaluate(self, run: Path, split: str, checkpoint: Path | None = None) -> _Evaluation:
        """Evaluates the checkpoint of a run, or another one of the same network."""
        command = {"test": "test", "validation": "validate"}[split]
        files = ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint or checkpoint_of(run))]
        with StopSignals() as signals:
            return _Evaluation([command, *files, "--trainer.enable_progress_bar", "false", *self.others], signals)

    def write(self, runs: Sequence[Path]) -> None:
        """Writes the mean of some runs."""
        kept = {name: value for name, value in self.checkpoints[runs[0]].items() if name not in _OF_TRAINING}
        mean = mean_weights([self.weights[run] for run in runs])
        DurableCheckpointIO().save_checkpoint({**kept, "state_dict": mean}, self.output)

    def greedy(self, metric: str | None, mode: Direction | None) -> Chosen:
        """Chooses the runs that do not make the mean worse on the validation split, beginning with the best."""
        alone = {run: self.evaluate(run, "validation").logged for run in self.weights}
        logged = set.intersection(*map(set, alone.values()))
        name = metric or ("accuracy" if "accuracy" in logged else "loss")
        if name not in logged:
            raise UserError(f"--metric is {name}: expected one that the runs log, {', '.join(sorted(logged))}")
        sign = 1 if decide_direction(name, mode, "--mode") == "max" else -1

        def rank(validation: Metrics) -> tuple[float, float]:
            return sign * validation[name], -validation.get("loss", 0.0)

        best, *candidates = sorted(self.weights, key=lambda run: rank(alone[run]), reverse=True)
        chosen = Chosen([best], alone[best])
        for run in candidates:
            trial = [*chosen.runs, run]
            self.write(trial)
            validation = self.evaluate(best, "validation", self.output).logged
            assert chosen.validation is not None
            if rank(validation) >= rank(chosen.validation):
                chosen = Chosen(trial, validation)
        return chosen


def _check_same_network(weights: Mapping[Path, Weights]) -> None:
    (first_run, first), *rest = weights.items()
    for run, other in rest:
        differing = [
            name
            for name in {**first, **other}
            if name not in first or name not in other or first[name].shape != other[name].shape
        ]
        if differing:
            raise UserError(
                f"{run} and {first_run} have other weights, as {differing[0]}: a soup is of runs of one network"
            )


def _check_same_data(checkpoints: Mapping[Path, Any]) -> None:
    """Refuses runs for whose networks the same input or output means something else."""
    known: dict[Path, dict[str, Any]] = {
        run: next((state for state in content.values() if isinstance(state, dict) and "class_names" in state), {})
        for run, content in checkpoints.items()
    }
    (first_run, first), *rest = known.items()
    for run, other in rest:
        if differing := [name for name in _MEANING if first.get(name) != other.get(name)]:
            raise UserError(
                f"{run} and {first_run} have other {differing[0].replace('_', ' ')}: a soup is of runs on the same data"
            )


def _leave_run(
    folder: Path, soup: _Soup, chosen: Chosen, records: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Metrics]]:
    """Evaluates the soup and leaves the config of its first run.

    Args:
        folder: Folder of the soup.
        soup: All runs, and how to evaluate them.
        chosen: The runs that went in.
        records: Their records.

    Returns:
        The record of the soup, and its metrics by the split.
    """
    first = chosen.runs[0]
    validation = chosen.validation or soup.evaluate(first, "validation", soup.output).logged
    test = soup.evaluate(first, "test", soup.output)
    write_text(folder / "config.yaml", (first / "config.yaml").read_text(encoding="utf-8"))
    facts = getattr(test.datamodule, "facts", None)
    record = record_of_soup(records, validation, test.logged, facts)
    record |= {"best_checkpoint": str(soup.output), "soup": [str(run) for run in chosen.runs]}
    name = f"soup of {len(chosen.runs)}"
    return record, {f"{name}, validation": validation, f"{name}, test": test.logged}
