"""Unfreezing where the training step takes the optimizer steps itself, and where their number changes."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from unfreezing_toys import GROUPS, Recorder, ToyModule, fit, trainer

from lightning_transfer import ProgressiveUnfreezing
from lightning_transfer.transfer.plan_table import plan


class ByHand(ToyModule):
    """Steps its one optimizer several times in a batch, or once in several batches.

    Args:
        steps: The optimizer steps of a batch; below 1, a step every so many batches.
    """

    def __init__(self, steps: float) -> None:
        super().__init__(lr=0.01)
        self.automatic_optimization = False
        self.steps = steps
        self.rates: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx == self.current_epoch == 0:
            optimizer.optimizer.register_step_pre_hook(self.note)
        for _ in range(max(1, int(self.steps))):
            self.manual_backward(super().training_step(batch, batch_idx))
            if self.steps >= 1 or (batch_idx + 1) % round(1 / self.steps) == 0:
                optimizer.step()
                optimizer.zero_grad()

    def note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


class TwoOptimizers(ToyModule):
    """Optimized by hand, one optimizer twice as often as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        body, head = self.optimizers()
        for optimizer in (head, body, head):
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]


def trained(recorder: Recorder) -> list[int]:
    """How many parameters each batch trains."""
    return [len(names) for names in recorder.trainable]


@pytest.mark.parametrize("module", [lambda: ByHand(1), lambda: ByHand(3), lambda: ByHand(1 / 3), TwoOptimizers])
@pytest.mark.parametrize("limit", [{}, {"max_steps": 10**6}], ids=["epochs", "epochs and steps"])
def test_a_fraction_is_of_the_batches_where_the_steps_are_taken_by_hand(module: Any, limit: dict[str, int]) -> None:
    recorder = fit(ProgressiveUnfreezing(GROUPS, until={"fraction": 0.25}), module(), max_epochs=4, **limit)
    assert trained(recorder) == [2] * 6 + [4] * 6 + [6] * 12


@pytest.mark.parametrize("max_epochs", [-1, 100])
def test_a_fraction_is_of_the_steps_where_these_end_a_training_by_hand(max_epochs: int) -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"fraction": 0.25})
    recorder = fit(unfreezing, ByHand(3), max_epochs=max_epochs, max_steps=36)
    assert trained(recorder) == [2] * 3 + [4] * 3 + [6] * 6


def test_a_fraction_is_of_the_batches_where_accumulation_changes() -> None:
    unfreezing, recorder = ProgressiveUnfreezing(GROUPS, until={"fraction": 0.25}), Recorder()
    trainer(unfreezing, recorder, GradientAccumulationScheduler({0: 2, 2: 3}), max_epochs=4).fit(ToyModule())
    assert trained(recorder) == [2] * 6 + [4] * 6 + [6] * 12


@pytest.mark.parametrize("steps", [1, 3, 1 / 3])
@pytest.mark.parametrize(
    "phases",
    [
        [{"groups": ["*"], "lr_schedule": "slanted_triangular"}],
        [
            {"groups": ["*"], "lr_schedule": "slanted_triangular", "until": {"fraction": 0.999}},
            {"groups": ["head"], "only": True},
        ],
    ],
    ids=["last phase", "fraction"],
)
def test_a_shape_spans_its_phase_whatever_steps_the_training_takes_by_hand(steps: float, phases: list[Any]) -> None:
    module = ByHand(steps)
    fit(ProgressiveUnfreezing(GROUPS, phases=phases), module, max_epochs=4)
    top = module.rates.index(max(module.rates))
    assert max(module.rates) > 0.8 * 0.01
    assert top / len(module.rates) == pytest.approx(0.1, abs=0.1)
    assert module.rates[-1] < 0.01 * 0.2


def test_a_number_of_steps_is_counted_as_it_is_by_hand() -> None:
    recorder = fit(ProgressiveUnfreezing(GROUPS, until={"steps": 4}), ByHand(2), max_epochs=2)
    assert trained(recorder) == [2, 2, 4, 4] + [6] * 8
    halves = {"schedule": "full", "lr_schedule": "one_cycle"}
    recorder = fit(ProgressiveUnfreezing(GROUPS, **halves), TwoOptimizers(), max_epochs=None, max_steps=12)
    assert recorder.steps == [0, 3, 6, 9]


def test_the_plan_counts_in_batches_where_the_steps_are_not_known() -> None:
    table = plan(trainer(ProgressiveUnfreezing(GROUPS, until={"fraction": 0.25}), max_epochs=4), ByHand(3))
    assert [line.split("  ")[3].strip() for line in table.splitlines()[1:]] == [
        "batch 0, epoch 0",
        "batch 6, epoch 1",
        "batch 12, epoch 2",
    ]


@pytest.mark.parametrize("frozen", ["body", "head"])
def test_an_optimizer_that_is_frozen_as_a_whole_can_be_stepped_under_float16(frozen: str) -> None:
    class Toy(TwoOptimizers):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            with torch.autocast("cpu", enabled=False):
                super().training_step(batch, batch_idx)

    kept = "head" if frozen == "body" else "body.*"
    phases = [{"groups": [kept], "until": {"epochs": 1}}, {"groups": ["*"]}]
    if frozen == "head":
        phases = [{"groups": ["body.*"], "until": {"epochs": 1}}, {"groups": ["head"]}]
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**8)):
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if scaler else []
        recorder, module = Recorder(), Toy()
        trainer(ProgressiveUnfreezing(GROUPS, phases=phases), recorder, plugins=plugins, max_epochs=2).fit(module)
        weights.append(module.state_dict())
        moved = {
            name for name, value in recorder.weights[6].items() if not torch.equal(value, recorder.weights[0][name])
        }
        assert moved
        assert not any(name.startswith(frozen) for name in moved)
        assert recorder.steps[-1] == 33
    torch.testing.assert_close(*weights)
