"""What Lightning does in every step for nobody, left out."""

from contextlib import AbstractContextManager, nullcontext

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class SilentProfiler(PassThroughProfiler):
    """What stands where no profiler is asked for: Lightning's own makes a generator for each of 36 actions a step."""

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        """Measures nothing."""
        return self._nothing


def skip_empty_hooks(trainer: L.Trainer) -> L.Trainer:
    """Keeps Lightning from calling the hooks of a step on callbacks that have none: it skips what is not callable.

    A dozen callbacks have over seventy such hooks, each a formatted name, a context and a call.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in STEP_HOOKS:
            if getattr(type(callback), name) is getattr(L.Callback, name) and name not in vars(callback):
                setattr(callback, name, None)
    return trainer
