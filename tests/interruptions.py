"""What may happen to a run, as a callback: ``--trainer.callbacks interruptions.Interruption``."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class Interruption(L.Callback):
    """Interrupts one rank after some optimizer steps, once each, also over restarts in the same folder.

    Args:
        steps: After which optimizer steps.
        kind: The name of a signal to this process, or ``raise``.
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
            os.kill(os.getpid(), signal.Signals[self.kind])


def curves(run: Path) -> dict[str, dict[int, float]]:
    """Every TensorBoard series of a run, by step; asserts that none jumps back."""
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(run.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            curve = curves.setdefault(tag, {})
            for event in events.Scalars(tag):
                assert event.step >= max(curve, default=0), f"{tag} jumps back to {event.step}"
                curve[event.step] = event.value
    return curves


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
