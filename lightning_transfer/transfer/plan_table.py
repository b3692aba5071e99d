"""Writes the plan of a schedule as a table: when each phase begins, what it trains and what that costs."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import some_of
from lightning_transfer.transfer.freezing import FreezableModule
from lightning_transfer.transfer.low_rank import adapt_ahead
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.shown_groups import unfreezing_of
from lightning_transfer.transfer.training_length import TrainingLength

HEADER = ("phase", "begins", "until", "trains at learning rate", "parameters", "share")


def format_plan(
    resolved: ResolvedSchedule,
    optimizers: Sequence[Optimizer],
    length: TrainingLength,
    kept_bytes: Sequence[int] | None = None,
    group_factors: Sequence[Sequence[float]] = (),
) -> str:
    """Writes a schedule as a table of plain text.

    Args:
        resolved: The schedule on its module.
        optimizers: The optimizers, which hold the learning rates.
        length: Length of the training.
        kept_bytes: The bytes of activations that each phase keeps for backward; empty where that is not known. None
            leaves the column out.
        group_factors: For each optimizer, a factor for each of its parameter groups.

    Returns:
        One aligned line per phase below a header, and a line about parameters that were frozen before.
    """
    held = [parameters for group in resolved.groups.values() for parameters in (group.parameters, group.frozen)]
    total = sum(parameter.numel() for parameters in held for parameter in parameters.values())
    rates = _learning_rates(optimizers, group_factors)
    begins = _begins(resolved, length)
    rows: list[tuple[str, ...]] = [HEADER if kept_bytes is None else (*HEADER, "kept for backward")]
    for index, phase in enumerate(resolved.phases):
        names = resolved.trainable(index)
        count = sum(parameter.numel() for parameter in resolved.parameters(names).values())
        shape = "" if phase.lr_schedule == "constant" else f" ({phase.lr_schedule.replace('_', ' ')})"
        scaled = [
            f"{name} {'/'.join(f'{phase.lr_multiplier * rate:.3g}' for rate in _rates_of(resolved, name, rates))}"
            for name in names
        ]
        until = str(phase.until) if phase.until else "end of training"
        row: tuple[str, ...] = (
            str(index + 1),
            begins[index],
            until,
            ", ".join(scaled) + shape,
            f"{count:,}",
            f"{100 * count / total:.1f} %",
        )
        if kept_bytes is not None:
            row += (f"{kept_bytes[index] / 2**20:.1f} MiB" if kept_bytes else "unknown",)
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if resolved.frozen_before:
        lines.append(f"frozen before, and kept so (thaw_frozen: false): {some_of(resolved.frozen_before)}")
    return "\n".join(line.rstrip() for line in lines)


def _begins(resolved: ResolvedSchedule, length: TrainingLength) -> list[str]:
    """Says when each phase begins: in steps, or in batches where only these are known."""
    starts = [(unit, unit.phase_starts(resolved.phases)) for unit in reversed(length.measures)]
    words = []
    for index in range(len(resolved.phases)):
        waits = any(phase.until and phase.until.plateau for phase in resolved.phases[:index])
        unit, start = next(
            ((unit, found[index]) for unit, found in starts if found[index] < math.inf), (length, math.inf)
        )
        epoch = "" if math.isinf(unit.steps_per_epoch) else f", epoch {start / unit.steps_per_epoch:.4g}"
        if math.isinf(start):
            words.append(f"after {resolved.phases[index - 1].until}")
        elif start >= unit.total_steps:
            words.append("perhaps" if waits else "not reached")
        else:
            words.append(f"{'by ' if waits else ''}{unit.unit} {start:.0f}{epoch}")
    return words


def _learning_rates(optimizers: Sequence[Optimizer], group_factors: Sequence[Sequence[float]]) -> dict[int, float]:
    """Returns the configured learning rate of each parameter, by its identity."""
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


def kept_for_backward(module: nn.Module, forward: Callable[[], Any]) -> int:
    """Counts the bytes that autograd keeps between forward and backward, without parameters and buffers.

    Args:
        module: The module, whose own parameters and buffers are not counted.
        forward: Runs the module. Its result is kept alive while counting.

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
    """Runs the training step of each phase once, forward only, and counts the bytes kept for backward.

    It runs on a copy of the batch and of the module, which shares the module's parameters. It leaves the state of the
    random generators as it was. All ranks must call it together, because the training step may communicate.

    Args:
        trainer: The trainer, whose precision is used.
        pl_module: The module.
        resolve: Resolves the schedule on the copy.
        batch: One training batch on the module's device.
        eval_norm_layers: Whether norm layers of frozen groups are in eval mode.

    Returns:
        Bytes per phase; an empty list if the training step cannot run on its own.
    """
    if not pl_module.automatic_optimization:
        return []  # the training step would step the optimizers
    kept: list[int] = []
    with isolate_rng():
        try:
            shared = {id(parameter): parameter for parameter in pl_module.parameters()}
            twin, batch = copy.deepcopy(pl_module, shared), copy.deepcopy(batch)
            twin.trainer = trainer
            twin.log = twin.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
            resolved = resolve(twin)
            module = FreezableModule(resolved.groups, eval_norm_layers)
        except Exception:  # an estimate for a table must not make a plan fail
            return []
        takes_index = is_param_in_hook_signature(twin.training_step, "batch_idx", min_args=2)
        arguments = (batch, 0) if takes_index else (batch,)
        try:
            with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.train_step_context():
                for index in range(len(resolved.phases)):
                    module.set_trainable(resolved.trainable(index))
                    module.hold()
                    kept.append(kept_for_backward(twin, lambda: twin.training_step(*arguments)))
        except Exception:  # the same holds here
            return []
        finally:
            module.restore()
    return kept


def plan(trainer: pl.Trainer, pl_module: pl.LightningModule, datamodule: pl.LightningDataModule | None = None) -> str:
    """Returns the plan that ``trainer.fit`` prints, and the memory for activations. It trains and writes nothing.

    Args:
        trainer: The trainer, which has a ``ProgressiveUnfreezing`` callback.
        pl_module: The module to be trained.
        datamodule: Its data, if the module has no data loaders of its own.

    Returns:
        The table of phases.

    Raises:
        UserError: If the trainer has no such callback, or the schedule does not fit the module.
    """
    if trainer.max_epochs is None and trainer.max_steps == -1:
        trainer.fit_loop.max_epochs = 1000  # fit assumes this
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
    adapt_ahead(trainer, pl_module)
    pl_module.configure_model()
    trainer.strategy.setup_optimizers(trainer)
    _ = trainer.estimated_stepping_batches  # this loads the training data as fit does
    if getattr(datamodule, "private", False):  # the memory tells what is in the batch
        return unfreezing.plan_table(trainer, pl_module) + "\nmemory not measured: data.private is true"
    batch = trainer.precision_plugin.convert_input(next(iter(trainer.train_dataloader)))  # type: ignore[arg-type]
    batch = pl_module._on_before_batch_transfer(batch)
    batch = pl_module._apply_batch_transfer_handler(batch, device=pl_module.device)
    return unfreezing.plan_table(trainer, pl_module, batch)
