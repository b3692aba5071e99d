"""Implements ``lightning-transfer soup``: it averages the weights of finished runs into one checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_transfer.cli.ensemble import divide, finished_runs, metrics, predictions_of, table
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_file
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO
from lightning_transfer.run.reading import read_checkpoint
from lightning_transfer.transfer.sources import checkpoint_of

Weights = Mapping[str, Tensor]

_OPTIONS = ("--output", "--recipe", "--split")  # of the soup itself, each with a value
# A soup has not been trained: it keeps what evaluates, not what goes on with a training.
_OF_TRAINING = (
    *("callbacks", "optimizer_states", "lr_schedulers", "loops", "interval"),
    *("current_model_state", "averaging_state", "adapted_state_dict"),
)


def make_soup(
    runs: list[Path],
    output: Path = Path("soup.ckpt"),
    recipe: Literal["uniform", "greedy"] = "uniform",
    split: Literal["test", "validation"] = "test",
    arguments: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """Averages the weights of finished runs into one checkpoint, and evaluates each and their mean.

    The runs are of one network from one start, such as the runs by which a study has chosen a learning rate. The
    command gives any other argument to every run, for example --trainer.accelerator cpu.

    Args:
        runs: Folders of the runs, such as logs/EXPERIMENT/VERSION; at least two.
        output: File of the new checkpoint, which ``test``, ``predict`` and ``--init_from`` take as any other.
        recipe: Whether all runs go in (uniform), or those that make the validation no worse, tried one after another
            with the best first (greedy). Accuracy counts, then the loss.
        split: Split to evaluate on at the end.
        arguments: More words of the command line for every run, for example ``["--trainer.accelerator", "cpu"]``.

    Returns:
        The metrics by name, of each run that went in and of the soup.

    Raises:
        UserError: If a folder has no finished run, or the runs are not of one network.

    Source:
        Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, 2022.
    """
    runs = finished_runs(runs, "a soup")
    check_file(Path(output))
    checkpoints = {run: read_checkpoint(checkpoint_of(run)) for run in runs}
    weights = {run: checkpoint["state_dict"] for run, checkpoint in checkpoints.items()}
    _check_same_network(weights)
    others = [*arguments]
    chosen = _greedy(weights, checkpoints, Path(output), others) if recipe == "greedy" else runs
    _write(Path(output), checkpoints[chosen[0]], [weights[run] for run in chosen])
    figures = {str(run): metrics(predictions_of(run, split, others)) for run in chosen}
    figures[f"soup of {len(chosen)}"] = metrics(predictions_of(chosen[0], split, others, Path(output)))
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


def _greedy(
    weights: Mapping[Path, Weights], checkpoints: Mapping[Path, Any], output: Path, others: list[str]
) -> list[Path]:
    """Chooses the runs that do not make the mean worse on the validation split, beginning with the best."""
    alone = {run: _score(metrics(predictions_of(run, "validation", others))) for run in weights}
    best, *candidates = sorted(weights, key=lambda run: alone[run], reverse=True)
    chosen, score = [best], alone[best]
    for run in candidates:
        trial = [*chosen, run]
        _write(output, checkpoints[best], [weights[member] for member in trial])
        new = _score(metrics(predictions_of(best, "validation", others, output)))
        if new >= score:
            chosen, score = trial, new
    return chosen


def _score(values: Mapping[str, float]) -> tuple[float, float]:
    """Ranks an evaluation: by its accuracy, where it has one, and then by its loss. The higher, the better."""
    return values.get("accuracy", 0.0), -values["loss"]


def _write(output: Path, checkpoint: Mapping[str, Any], weights: Sequence[Weights]) -> None:
    kept = {name: value for name, value in checkpoint.items() if name not in _OF_TRAINING}
    DurableCheckpointIO().save_checkpoint({**kept, "state_dict": mean_weights(weights)}, output)
