"""The plan of a schedule as a table: when each phase begins, what it trains and what that costs. Nothing is trained."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.freezing import FreezableModule
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.schedule import TrainingLength
from lightning_transfer.transfer.shown_groups import unfreezing_of

HEADER = ("phase", "begins", "until", "trains at learning rate", "parameters", "share", "kept for backward")


def format_plan(
    resolved: ResolvedSchedule,
    optimizers: Sequence[Optimizer],
    length: TrainingLength,
    kept_bytes: Sequence[int] = (),
    group_factors: Sequence[Sequence[float]] = (),
) -> str:
    """Write a schedule as a table of plain text.

    Args:
        resolved: The schedule on its module.
        optimizers: Where the learning rates stand.
        length: Of the training.
        kept_bytes: Per phase, the bytes of activations kept for backward, if known.
        group_factors: Per optimizer, a factor for each of its parameter groups.

    Returns:
        One line per phase below a header, aligned.
    """
    total = sum(parameter.numel() for group in resolved.groups.values() for parameter in group.parameters.values())
    starts = length.phase_starts(resolved.phases)
    rates = _learning_rates(optimizers, group_factors)
    rows = [HEADER]
    for index, phase in enumerate(resolved.phases):
        names = resolved.trainable(index)
        count = sum(parameter.numel() for parameter in resolved.parameters(names).values())
        shape = "" if phase.lr_schedule == "constant" else f" ({phase.lr_schedule.replace('_', ' ')})"
        scaled = [
            f"{name} {'/'.join(f'{phase.lr_multiplier * rate:.3g}' for rate in _rates_of(resolved, name, rates))}"
            for name in names
        ]
        rows.append(
            (
                str(index + 1),
                _begins(resolved, index, starts[index], length),
                str(phase.until) if phase.until else "end of training",
                ", ".join(scaled) + shape,
                f"{count:,}",
                f"{100 * count / total:.1f} %",
                f"{kept_bytes[index] / 2**20:.1f} MiB" if kept_bytes else "unknown",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _begins(resolved: ResolvedSchedule, index: int, start: float, length: TrainingLength) -> str:
    waits = [phase.until.plateau for phase in resolved.phases[:index] if phase.until and phase.until.plateau]
    if math.isinf(start):
        until = resolved.phases[index - 1].until
        return f"after {until}" if until else ""
    if start >= length.total_steps:
        return "not reached" if not waits else "perhaps"
    epoch = "" if math.isinf(length.steps_per_epoch) else f", epoch {start / length.steps_per_epoch:.4g}"
    return f"{'by ' if waits else ''}step {start:.0f}{epoch}"


def _learning_rates(optimizers: Sequence[Optimizer], group_factors: Sequence[Sequence[float]]) -> dict[int, float]:
    """Return the learning rate that each parameter, by its identity, was configured with."""
    rates: dict[int, float] = {}
    for number, optimizer in enumerate(optimizers):
        for position, group in enumerate(optimizer.param_groups):
            factor = group_factors[number][position] if group_factors else 1.0
            rate = factor * float(group.get("max_lr", group.get("initial_lr", group["lr"])))
            rates |= {id(parameter): rate for parameter in group["params"]}
    return rates


def _rates_of(resolved: ResolvedSchedule, name: str, rates: Mapping[int, float]) -> list[float]:
    parameters = resolved.groups[name].parameters.values()
    return sorted({rates[id(parameter)] for parameter in parameters if id(parameter) in rates})


def training_length(trainer: pl.Trainer) -> TrainingLength:
    """Return how long a trainer will train the data it has."""
    total_steps, batches = float(trainer.estimated_stepping_batches), trainer.num_training_batches
    hidden_by = _hides_length(trainer)
    is_known = total_steps >= 0 and (not hidden_by or trainer.max_epochs == -1)  # by max_steps alone it always is
    return TrainingLength(
        total_steps=total_steps if is_known else math.inf,
        steps_per_epoch=math.inf
        if hidden_by or math.isinf(batches)
        else math.ceil(batches / trainer.accumulate_grad_batches),
        hidden_by=hidden_by,
    )


def _hides_length(trainer: pl.Trainer) -> str:
    """Say what keeps the optimizer steps of an epoch from following from its batches, if anything does."""
    # trainer.global_step counts the steps of every optimizer, and the training step alone knows how many it takes.
    if not trainer.lightning_module.automatic_optimization and len(trainer.optimizers) > 1:
        return f"manual optimization of {len(trainer.optimizers)} optimizers"
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return "GradientAccumulationScheduler"
    return ""


def kept_for_backward(module: nn.Module, forward: Callable[[], Any]) -> int:
    """Count the bytes that autograd keeps between forward and backward, parameters and buffers not included.

    Args:
        module: Its own parameters and buffers are not counted.
        forward: Runs the module; whatever it returns is kept alive while counting.

    Returns:
        Bytes, each storage counted once.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(kept.values())


def activation_memory(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    resolve: Callable[[nn.Module], ResolvedSchedule],
    batch: Any,
    eval_norm_layers: bool,
) -> list[int]:
    """Run the training step of each phase once, forward only, and count the bytes kept for backward.

    It runs on a copy of the module and the batch and leaves the state of the random generators as it was. All ranks
    must call it together, for the training step may communicate.

    Args:
        trainer: Its precision is used.
        pl_module: The module; copied.
        resolve: Resolves the schedule on the copy.
        batch: One training batch on the module's device.
        eval_norm_layers: Whether norm layers of frozen groups stand in eval mode.

    Returns:
        Bytes per phase; nothing if the training step cannot run on its own.
    """
    if not pl_module.automatic_optimization:
        return []  # the training step would step the optimizers
    kept: list[int] = []
    with isolate_rng():
        try:
            twin, batch = copy.deepcopy(pl_module), copy.deepcopy(batch)
            twin.trainer = trainer
            twin.log = twin.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
            resolved = resolve(twin)
            module = FreezableModule(resolved.groups, eval_norm_layers)
            takes_index = is_param_in_hook_signature(twin.training_step, "batch_idx", min_args=2)
            arguments = (batch, 0) if takes_index else (batch,)
            with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.train_step_context():
                for index in range(len(resolved.phases)):
                    module.set_trainable(resolved.trainable(index))
                    module.hold_norm_layers()
                    kept.append(kept_for_backward(twin, lambda: twin.training_step(*arguments)))
        except Exception:  # an estimate for a table must never stop a training that would run
            return []
    return kept


def plan(trainer: pl.Trainer, pl_module: pl.LightningModule, datamodule: pl.LightningDataModule | None = None) -> str:
    """Return the plan that ``trainer.fit`` would print, without training and without writing anything.

    Args:
        trainer: Holds a ``ProgressiveUnfreezing`` callback.
        pl_module: The module to be trained.
        datamodule: Its data, if the module does not bring its own.

    Returns:
        The table of phases.

    Raises:
        UserError: If the trainer has no such callback, or the schedule does not fit the module.
    """
    if trainer.max_epochs is None and trainer.max_steps == -1:
        trainer.fit_loop.max_epochs = 1000  # what fit assumes
    trainer.state.fn, trainer.training = TrainerFn.FITTING, True
    pl_module.trainer = trainer
    trainer.strategy.connect(pl_module)
    trainer._callback_connector._attach_model_callbacks()
    unfreezing = unfreezing_of(trainer)
    if unfreezing is None:
        raise UserError("there is nothing to plan: trainer.callbacks has no ProgressiveUnfreezing")
    trainer._data_connector.attach_data(pl_module, datamodule=datamodule)
    trainer._data_connector.prepare_data()
    if datamodule is not None:
        datamodule.setup("fit")
    pl_module.setup("fit")
    pl_module.configure_model()
    trainer.strategy.setup_optimizers(trainer)
    _ = trainer.estimated_stepping_batches  # loads the training data as fit does
    batch = trainer.precision_plugin.convert_input(next(iter(trainer.train_dataloader)))  # type: ignore[arg-type]
    batch = pl_module._on_before_batch_transfer(batch)
    batch = pl_module._apply_batch_transfer_handler(batch, device=pl_module.device)
    return unfreezing.plan_table(trainer, pl_module, batch)
