"""What Lightning does in every step for nobody, left out."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class SilentProfiler(PassThroughProfiler):
    """What stands where no profiler is asked for: Lightning's own makes a generator for each of 36 actions a step."""

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        """Measures nothing."""
        return self._nothing


class WholeLoss(ClosureResult):
    """What a step gives: Lightning's own divides every loss, by 1 too, which is a node more to go back through."""

    @classmethod
    def from_training_step_output(cls, training_step_output: Any, normalize: int = 1) -> "ClosureResult":
        """Takes the loss as it is where gradients are not accumulated."""
        if normalize == 1 and isinstance(training_step_output, Tensor):
            return cls(training_step_output)
        return super().from_training_step_output(training_step_output, normalize)


def shorten_steps(trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule | None) -> None:
    """Leaves out what Lightning would do in every step of a fit to no effect.

    Hooks that do nothing are not called: Lightning skips what is not callable. A dozen callbacks have over seventy such
    hooks, each a formatted name, a context and a call. What cannot change within a fit is looked up once: the arguments
    of ``training_step``, and who moves a batch to the device. And metrics are only collected where some were logged.

    Args:
        trainer: Will fit the module.
        module: Is for this trainer alone from now on.
        datamodule: Its data, if any.
    """
    for owner in (*trainer.callbacks, module):  # type: ignore[attr-defined]
        base = L.Callback if isinstance(owner, L.Callback) else L.LightningModule
        for name in STEP_HOOKS:
            if getattr(type(owner), name) is getattr(base, name) and name not in vars(owner):
                setattr(owner, name, None)
        if isinstance(owner, ModelCheckpoint) and not _saves_in_steps(owner):
            owner.on_train_batch_end = None  # type: ignore[method-assign, assignment]
    if not trainer.gradient_clip_val and not is_overridden("configure_gradient_clipping", module):
        module.configure_gradient_clipping = None  # type: ignore[method-assign, assignment]
    trainer.fit_loop.epoch_loop.automatic_optimization.output_result_cls = WholeLoss
    _look_up_arguments_once(trainer, module)
    if isinstance(trainer.profiler, SilentProfiler):  # type: ignore[attr-defined]
        _look_up_batch_hooks_once(trainer, module, datamodule)
        if not is_overridden("optimizer_zero_grad", module):
            module.optimizer_zero_grad = _forget_gradients  # type: ignore[method-assign]
    _collect_metrics_where_logged(trainer)


def _forget_gradients(epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
    """Does what torch's ``zero_grad`` does, without a record for a profiler."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _saves_in_steps(callback: ModelCheckpoint) -> bool:
    has_own = type(callback).on_train_batch_end is not ModelCheckpoint.on_train_batch_end
    return has_own or bool(callback._every_n_train_steps) or callback._train_time_interval is not None


def _look_up_arguments_once(trainer: L.Trainer, module: L.LightningModule) -> None:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

    def arguments(given: dict[str, Any], batch: Any, batch_idx: int) -> dict[str, Any]:
        return given | {"batch": batch} | ({"batch_idx": batch_idx} if takes_index else {})

    trainer.fit_loop.epoch_loop._build_kwargs = arguments  # type: ignore[method-assign, assignment]


def _look_up_batch_hooks_once(
    trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule | None
) -> None:
    hooks: dict[str, Any] = {}
    for name in BATCH_HOOKS:
        owner = datamodule if datamodule is not None and is_overridden(name, datamodule) else module
        # What trains on a CPU gets its batches in the CPU's memory.
        transfers = name == "transfer_batch_to_device" and trainer.strategy.root_device.type != "cpu"
        hooks[name] = getattr(owner, name) if transfers or is_overridden(name, owner) else None

    def call(name: str, batch: Any, *arguments: Any) -> Any:
        hook = hooks[name]
        return batch if hook is None else hook(batch, *arguments)

    module._call_batch_hook = call  # type: ignore[method-assign, assignment]


def _collect_metrics_where_logged(trainer: L.Trainer) -> None:
    """Of a batch in which nothing was logged all metrics are those of the batch before."""
    results, connector = trainer.fit_loop.epoch_loop._results, trainer._logger_connector
    log, on_batch_end = results.log, connector.on_batch_end
    is_new = False

    def note_and_log(*arguments: Any, **keywords: Any) -> None:
        nonlocal is_new
        is_new = True
        log(*arguments, **keywords)

    def collect() -> None:
        nonlocal is_new
        if is_new or trainer._results is not results:  # validation within the fit has its own
            on_batch_end()
        else:
            results.batch = results.batch_size = None
        is_new = False

    results.log = note_and_log
    connector.on_batch_end = collect  # type: ignore[method-assign]
