"""Where this package reaches behind Lightning's public interface: what for, and what happens where that has changed.

Every place asks first whether the installed Lightning has what it needs. Where it has not, Lightning's own way is
taken: a run ends with the same weights, only later, and one line says so. ``tests/test_lightning_internals.py`` fits
without each of them in turn.

================================  =====================================================================================
member of Lightning               what for
================================  =====================================================================================
hooks that are not callable       Lightning skips them: hooks that do nothing are not called (16 % of a tiny step)
``_call_batch_hook``              who moves a batch to the device is looked up once in a fit (15 %)
``_build_kwargs``                 the arguments of ``training_step`` are looked up once in a fit (11 %)
``output_result_cls``             a loss that is not accumulated is not divided by 1 (4 %)
``_results``, ``on_batch_end``    metrics are collected only where some were logged (9 %)
``register_signal_handlers``      exactness: a run stops at a step boundary, on all processes at the same one
``_broadcast_sigterm_tensor``     as above: no process waits in every step for the others
``on_run_start``, ``on_run_end``  exactness: a run that was killed after its last step ends as it would have
``_batches_that_stepped``         the step at which Lightning's own metrics are logged
================================  =====================================================================================

The shares are those of the step benchmark's 677 microseconds (``scripts/benchmark overhead.step``, one thread of a
busy AMD EPYC, best of 4, after commit 9f900c5).
"""

import functools
import importlib.metadata
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import rank_zero_info
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

    profile = nullcontext  # type: ignore[assignment]


class WholeLoss(ClosureResult):
    """Takes the loss of a step as it is: Lightning's own class divides every loss, also by 1, which costs autograd."""

    @classmethod
    def from_training_step_output(cls, training_step_output: Any, normalize: int = 1) -> "ClosureResult":
        """Takes the loss as it is where gradients are not accumulated."""
        if normalize == 1 and isinstance(training_step_output, Tensor):
            return cls(training_step_output)
        return super().from_training_step_output(training_step_output, normalize)


def _forget_gradients(epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
    """Does what torch's ``zero_grad`` does, without its record for a profiler."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def has(owner: object, *names: str) -> bool:
    """Tells whether an object of Lightning has these members; says in one line where it has not."""
    missing = [name for name in names if not hasattr(owner, name)]
    for name in missing:
        release = importlib.metadata.version("lightning")
        rank_zero_info(
            f"lightning {release}: {type(owner).__name__} has no {name}: Lightning's own way is taken, which may be"
            " slower; the release that this package was tested with is in its pyproject.toml"
        )
    return not missing


def shorten_steps(trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule | None) -> None:
    """Leaves out what Lightning would do in every step of a fit to no effect.

    Args:
        trainer: Will fit the module.
        module: Is for this trainer alone from now on.
        datamodule: Its data, if any.
    """
    _skip_empty_hooks(trainer, module)
    _look_up_arguments_once(trainer, module)
    automatic = trainer.fit_loop.epoch_loop.automatic_optimization
    if has(automatic, "output_result_cls"):
        automatic.output_result_cls = WholeLoss
    if isinstance(trainer.profiler, SilentProfiler):  # type: ignore[attr-defined]
        _look_up_batch_hooks_once(trainer, module, datamodule)
        if not is_overridden("optimizer_zero_grad", module):
            module.optimizer_zero_grad = _forget_gradients  # type: ignore[method-assign]
    _collect_metrics_where_logged(trainer)


def _skip_empty_hooks(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Takes hooks that do nothing away. A dozen callbacks have over seventy, each with a name, a context and a call."""
    if not _skips_what_is_not_callable():
        return
    for owner in (*trainer.callbacks, module):  # type: ignore[attr-defined]
        base = L.Callback if isinstance(owner, L.Callback) else L.LightningModule
        for name in STEP_HOOKS:
            if getattr(type(owner), name) is getattr(base, name) and name not in vars(owner):
                setattr(owner, name, None)
        if isinstance(owner, ModelCheckpoint) and not _saves_in_steps(owner):
            owner.on_train_batch_end = None  # type: ignore[method-assign, assignment]
    # Lightning's own clips nothing then, and neither does that of this package's modules.
    clips = module.configure_gradient_clipping.__module__.split(".")[0]
    if not trainer.gradient_clip_val and clips in ("lightning", "pytorch_lightning", __package__):
        module.configure_gradient_clipping = None  # type: ignore[method-assign, assignment]


def step_frozen_without_scaler(trainer: L.Trainer) -> None:
    """Steps an optimizer whose parameters are all frozen as without a scaler, under float16.

    The scaler asserts that it has seen a gradient of each optimizer that steps. Several optimizers may be stepped by
    hand, and a phase may freeze all that one of them holds.
    """
    plugin = trainer.precision_plugin
    if not isinstance(plugin, MixedPrecision) or plugin.scaler is None or "optimizer_step" in vars(plugin):
        return
    scaled = plugin.optimizer_step

    def optimizer_step(optimizer: Any, model: L.LightningModule, closure: Any, **options: Any) -> Any:
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        if any(parameter.requires_grad or parameter.grad is not None for parameter in parameters):
            return scaled(optimizer, model, closure, **options)
        return Precision.optimizer_step(plugin, optimizer, model, closure, **options)

    plugin.optimizer_step = optimizer_step  # type: ignore[method-assign]


def divides_weights(trainer: L.Trainer | None) -> bool:
    """Says whether the strategy of a trainer divides the weights over the ranks, which then pass together alone."""
    divided = DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy
    return trainer is not None and isinstance(trainer.strategy, divided)


def gradient_scale(trainer: L.Trainer, optimizer: Any) -> float:
    """Says by what number gradients are multiplied in ``on_before_optimizer_step``.

    Under float16 they are scaled up. Lightning undoes that before the hook, but leaves it to a fused optimizer, which
    it tells by an attribute of torch's. Without the attribute no optimizer counts as fused, as in Lightning.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def rest_hook(callback: L.Callback, name: str) -> None:
    """Has Lightning no longer call a hook of a callback that has done its work in this fit."""
    setattr(callback, name, None if _skips_what_is_not_callable() else lambda *_, **__: None)


def wake_hook(callback: L.Callback, name: str) -> None:
    """Undoes :func:`rest_hook`, for the next fit."""
    vars(callback).pop(name, None)


@functools.cache
def _skips_what_is_not_callable() -> bool:
    callers = ("_call_callback_hooks", "_call_lightning_module_hook")
    return has(call, *callers) and all("callable(fn)" in inspect.getsource(getattr(call, name)) for name in callers)


def _saves_in_steps(callback: ModelCheckpoint) -> bool:
    if type(callback).on_train_batch_end is not ModelCheckpoint.on_train_batch_end:
        return True
    if not has(callback, "_every_n_train_steps", "_train_time_interval"):
        return True
    return bool(callback._every_n_train_steps) or callback._train_time_interval is not None


def _look_up_arguments_once(trainer: L.Trainer, module: L.LightningModule) -> None:
    loop = trainer.fit_loop.epoch_loop
    if not has(loop, "_build_kwargs"):
        return
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

    def arguments(given: dict[str, Any], batch: Any, batch_idx: int) -> dict[str, Any]:
        return given | {"batch": batch} | ({"batch_idx": batch_idx} if takes_index else {})

    loop._build_kwargs = arguments  # type: ignore[method-assign, assignment]


def _look_up_batch_hooks_once(
    trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule | None
) -> None:
    if not has(module, "_call_batch_hook"):
        return
    hooks: dict[str, Callable[..., Any] | None] = {}
    for name in BATCH_HOOKS:
        owner = datamodule if datamodule is not None and is_overridden(name, datamodule) else module
        # What trains on a CPU gets its batches in the CPU's memory.
        transfers = name == "transfer_batch_to_device" and trainer.strategy.root_device.type != "cpu"
        hooks[name] = getattr(owner, name) if transfers or is_overridden(name, owner) else None

    def call_hook(name: str, batch: Any, *arguments: Any) -> Any:
        hook = hooks[name]
        return batch if hook is None else hook(batch, *arguments)

    module._call_batch_hook = call_hook  # type: ignore[method-assign, assignment]


def _collect_metrics_where_logged(trainer: L.Trainer) -> None:
    """Of a batch in which nothing was logged all metrics are those of the batch before."""
    loop, connector = trainer.fit_loop.epoch_loop, getattr(trainer, "_logger_connector", None)
    if not (has(loop, "_results") and has(trainer, "_results") and has(connector, "on_batch_end")):
        return
    assert connector is not None
    results = loop._results
    if not has(results, "log", "batch", "batch_size"):
        return
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
    connector.on_batch_end = collect


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Takes Lightning's handlers of SIGTERM and SIGUSR1 away, for :class:`~lightning_transfer.run.last_checkpoint`.

    They wait for the other ranks in the middle of whatever the signal interrupts, and exit with status 0. With them
    goes the question that the loop asks all ranks in every step, waiting for the answer.
    """
    connector, loop = getattr(trainer, "_signal_connector", None), trainer.fit_loop.epoch_loop
    if has(connector, "register_signal_handlers"):
        connector.register_signal_handlers = lambda: None  # type: ignore[union-attr]
        if has(loop, "_broadcast_sigterm_tensor"):
            loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def end_what_was_trained(trainer: L.Trainer) -> None:
    """Has the hooks of a training's end called also where it goes on from its last step, which Lightning skips.

    A process that was killed after its last checkpoint would otherwise leave out what is done there, for good.
    """
    loop = trainer.fit_loop
    if not has(loop, "on_run_start", "on_run_end"):
        return
    run = loop.run

    def run_or_end() -> None:
        loop.setup_data()
        if trainer.ckpt_path and loop.max_batches and trainer.limit_train_batches and loop.done:
            loop.on_run_start()
            loop.on_run_end()
        else:
            run()

    loop.run = run_or_end  # type: ignore[method-assign]


def logged_step(trainer: L.Trainer) -> int:
    """Returns the step at which Lightning logs its own metrics: the batches so far after which optimizers stepped."""
    loop = trainer.fit_loop.epoch_loop
    return loop._batches_that_stepped if hasattr(loop, "_batches_that_stepped") else trainer.global_step
