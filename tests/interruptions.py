"""What may happen to a run, as a callback: ``--trainer.callbacks interruptions.Interruption``."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_transfer.cli.entry import main
from lightning_transfer.run.last_checkpoint import LastCheckpoint


class Interruption(L.Callback):
    """Interrupts one rank after some optimizer steps, once each, also over restarts in the same folder.

    Args:
        steps: After which optimizer steps.
        kind: The name of a signal to this process, ``raise``, or ``pause``: until a signal comes from elsewhere.
        rank: Which rank.
    """

    def __init__(self, steps: list[int], kind: str = "SIGTERM", rank: int = 0) -> None:
        self.steps = steps
        self.kind = kind
        self.rank = rank

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        step = trainer.global_step
        mark = Path(f"interrupted_after_{step}")
        if trainer.global_rank == self.rank and step in self.steps and not mark.exists():
            mark.touch()
            if self.kind == "raise":
                raise RuntimeError(f"interrupted after step {step}")
            if self.kind == "pause":
                _wait_for_signal(trainer)
            else:
                os.kill(os.getpid(), signal.Signals[self.kind])


def _wait_for_signal(trainer: L.Trainer) -> None:
    [last] = [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]
    deadline = time.monotonic() + 120
    while not last._signals.received:
        assert time.monotonic() < deadline, "no signal has come"
        time.sleep(0.05)


def assert_stop_changes_nothing(given: list[str], step: int, whole: Callable[[str], Path]) -> None:
    """Asserts that a fit which SIGTERM stops after a step, and which goes on, ends as one that it does not stop.

    Args:
        given: The arguments of the fit.
        step: The optimizer step.
        whole: Gives the folder of the only run of an experiment.
    """
    stop = {"class_path": "interruptions.Interruption", "init_args": {"steps": [step]}}
    stopped = ["--trainer.callbacks", json.dumps([stop]), "--experiment", "stopped", "--version", "run"]
    main(["fit", *given, "--experiment", "whole"])
    with pytest.raises(SystemExit):
        main(["fit", *given, *stopped])
    main(["fit", *given, *stopped, "--ckpt_path", "last"])
    assert_equal_runs(Path("logs/stopped/run"), whole("whole"))


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve that TensorBoard shows of a run, but for its speed."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def last_checkpoint(run: Path) -> dict[str, Any]:
    """What last.ckpt of a run holds."""
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def assert_equal_runs(run: Path, expected: Path) -> None:
    """Asserts that two runs ended with the same weights, optimizer and validations, to the last bit."""
    ours, theirs = last_checkpoint(run), last_checkpoint(expected)
    assert ours["global_step"] == theirs["global_step"]
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (ours, theirs)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    validations = [json.loads((folder / "results.json").read_text())["validations"] for folder in (run, expected)]
    assert validations[0] == validations[1]
