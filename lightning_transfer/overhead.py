"""What Lightning does in every step for nobody, left out."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

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


def shorten_steps(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Leaves out what Lightning would do in every step of a fit to no effect.

    Hooks that do nothing are not called: Lightning skips what is not callable. A dozen callbacks have over seventy such
    hooks, each a formatted name, a context and a call. And the arguments of ``training_step`` are looked up once.

    Args:
        trainer: Will fit the module.
        module: Is for this trainer alone from now on.
    """
    for owner in (*trainer.callbacks, module):  # type: ignore[attr-defined]
        base = L.Callback if isinstance(owner, L.Callback) else L.LightningModule
        for name in STEP_HOOKS:
            if getattr(type(owner), name) is getattr(base, name) and name not in vars(owner):
                setattr(owner, name, None)
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

    def arguments(given: dict[str, Any], batch: Any, batch_idx: int) -> dict[str, Any]:
        return given | {"batch": batch} | ({"batch_idx": batch_idx} if takes_index else {})

    trainer.fit_loop.epoch_loop._build_kwargs = arguments  # type: ignore[method-assign, assignment]
