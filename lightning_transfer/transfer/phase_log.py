"""Reports the phases of a schedule to the loggers and on the terminal."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_transfer.networks.layer_groups import some_of
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.schedule import Position


def say_plan(table: str) -> None:
    """Prints the plan before the first step."""
    rank_zero_info("Unfreezing plan\n" + table)


def say_transition(resolved: ResolvedSchedule, index: int, now: Position) -> None:
    """Prints which phase begins."""
    rank_zero_info(
        f"Epoch {now.epoch}, step {now.step}: phase {index + 1} of {len(resolved.phases)} begins; "
        f"trainable: {', '.join(resolved.trainable(index))}"
    )


def say_missed(outcome: dict[str, Any]) -> None:
    """Warns of phases that never began."""
    if outcome["because"]:
        rank_zero_warn(f"{outcome['because']}; never trained: {some_of(outcome['never_trained']) or 'none'}")


def log_phase(trainer: pl.Trainer, resolved: ResolvedSchedule, index: int) -> None:
    """Logs the phase that begins, and how many parameters it trains."""
    parameters = resolved.parameters(resolved.trainable(index)).values()
    metrics: dict[str, float] = {
        "phase/index": index + 1,
        "phase/trainable_parameters": sum(parameter.numel() for parameter in parameters),
    }
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
