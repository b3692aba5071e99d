"""Learning rates over transitions: any scheduler says what it would say without them, and nothing exceeds it."""

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from unfreezing_toys import GROUPS, ToyModule, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.errors import UserError

STEPS = 18
LR, DECAY = 0.1, 2.6
BASE = [LR / DECAY**2, LR / DECAY, LR]

# Scheduler, and the factor of the base learning rate at a step, in closed form.
SCHEDULERS: dict[str, tuple[Callable[[Any], Any], Callable[[int], float]]] = {
    "StepLR": (lambda o: lr_scheduler.StepLR(o, 5, 0.5), lambda t: 0.5 ** (t // 5)),
    "MultiStepLR": (lambda o: lr_scheduler.MultiStepLR(o, [4, 13], 0.1), lambda t: 0.1 ** ((t >= 4) + (t >= 13))),
    "ExponentialLR": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda t: 0.9**t),
    "CosineAnnealingLR": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda t: (1 + math.cos(math.pi * t / STEPS)) / 2,
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
        lambda t: (1 + math.cos(math.pi * (t % 7) / 7)) / 2,
    ),
    "LinearLR": (lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 10), lambda t: 0.5 + 0.5 * min(t, 10) / 10),
    "OneCycleLR": (
        lambda o: lr_scheduler.OneCycleLR(o, BASE, STEPS, cycle_momentum=False),
        lambda t: (
            1 + (1 / 25 - 1) * (1 + math.cos(math.pi * t / 4.4)) / 2
            if t <= 4.4
            else 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * (t - 4.4) / (17 - 4.4))) / 2
        ),
    ),
    "SequentialLR": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.25, 1.0, 6), lr_scheduler.ExponentialLR(o, 0.9)], [6]
        ),
        lambda t: 0.25 + 0.75 * t / 6 if t < 6 else 0.9 ** (t - 6),
    ),
    "PolynomialLR": (lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0), lambda t: (1 - t / STEPS) ** 2),
    "LambdaLR": (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
    "ReduceLROnPlateau": (
        # A threshold that nothing passes: reduced after the second epoch.
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=1, threshold=1.0),
        lambda t: 0.1 ** (t // 6 >= 2),
    ),
}


class LearningRates(L.Callback):
    """Notes the learning rates at the moment the optimizer steps."""

    def __init__(self) -> None:
        self.at_step: list[list[float]] = []
        self.between_steps: list[list[float]] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.at_step.append([group["lr"] for group in optimizer.param_groups])

        # Registered after the callback under test has registered its own.
        trainer.optimizers[0].register_step_pre_hook(note)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.between_steps.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def decayed(module: L.LightningModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameter_groups(module, GROUPS, lr=LR, lr_decay=DECAY), lr=LR, momentum=0.9)


def train(unfreezing: ProgressiveUnfreezing, optimizer: Any = decayed, scheduler: Any = None) -> LearningRates:
    class Scheduled(ToyModule):
        def configure_optimizers(self) -> Any:
            built = optimizer(self)
            if scheduler is None:
                return built
            made = scheduler(built)
            if isinstance(made, lr_scheduler.ReduceLROnPlateau):
                return {"optimizer": built, "lr_scheduler": {"scheduler": made, "monitor": "val/loss"}}
            return {"optimizer": built, "lr_scheduler": {"scheduler": made, "interval": "step"}}

    rates = LearningRates()
    trainer(unfreezing, rates, max_epochs=3).fit(Scheduled())
    return rates


@pytest.mark.filterwarnings("ignore:.*epoch parameter in.*:UserWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_keeps_to_its_closed_form_over_two_transitions(name: str) -> None:
    scheduler, factor = SCHEDULERS[name]
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"steps": 5})
    rates = train(unfreezing, scheduler=scheduler)
    assert unfreezing.phase_index == 2
    assert len(rates.at_step) == STEPS
    for step, found in enumerate(rates.at_step):
        assert found == pytest.approx([base * factor(step) for base in BASE], rel=1e-9), f"step {step}"
        assert all(rate <= base * (1 + 1e-12) for rate, base in zip(found, BASE, strict=True))


def test_a_phases_multiplier_and_shape_come_on_top_and_leave_the_scheduler_alone() -> None:
    phases = [
        {"groups": ["head"], "until": {"steps": 4}},
        {"groups": ["body.2"], "until": {"epochs": 1}, "lr_multiplier": 0.5},
        {"groups": ["body.0"], "lr_schedule": "one_cycle"},
    ]
    unfreezing = ProgressiveUnfreezing(GROUPS, phases=phases)
    rates = train(unfreezing, scheduler=lambda o: lr_scheduler.ExponentialLR(o, 0.9))
    factors = (
        [1.0] * 4 + [0.5] * 6 + [unfreezing._resolved.phases[2].learning_rate_factor(step, 8) for step in range(8)]
    )
    assert max(factors[10:]) > 0.9
    for step, found in enumerate(rates.at_step):
        assert found == pytest.approx([base * 0.9**step * factors[step] for base in BASE], rel=1e-9), f"step {step}"
        assert rates.between_steps[step] == pytest.approx([base * 0.9**step for base in BASE], rel=1e-9)


def test_the_callbacks_decay_equals_that_of_parameter_groups() -> None:
    def flat(module: L.LightningModule) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(module, GROUPS, lr=LR, lr_decay=1.0), lr=LR)

    rates = train(ProgressiveUnfreezing(GROUPS, lr_decay=DECAY), flat, lambda o: lr_scheduler.ExponentialLR(o, 0.9))
    assert rates.at_step[7] == pytest.approx([base * 0.9**7 for base in BASE], rel=1e-9)


def test_the_callbacks_decay_takes_tied_weights_as_parameter_groups_does_whichever_thaws_first() -> None:
    class Tied(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
            self.head = nn.Linear(4, 4)
            self.head.weight = self.body[0].weight

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameter_groups(self, GROUPS, lr=LR, lr_decay=1.0), lr=LR)

    phases = [{"groups": ["body.0"], "until": {"epochs": 1}}, {"groups": ["body.2", "head"]}]
    rates = LearningRates()
    trainer(ProgressiveUnfreezing(GROUPS, phases=phases, lr_decay=DECAY), rates, max_epochs=2).fit(Tied())
    assert [rates.at_step[step] for step in (0, 11)] == [pytest.approx(BASE)] * 2


def test_the_users_own_groups_and_weight_decays_are_kept() -> None:
    def own(module: Any) -> torch.optim.Optimizer:
        weights = [p for p in module.parameters() if p.ndim > 1]
        biases = [p for p in module.parameters() if p.ndim == 1]
        return torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.01}], lr=LR)

    rates = train(ProgressiveUnfreezing(GROUPS), own)
    assert set(map(tuple, rates.at_step)) == {(LR, 0.01)}


def test_a_decay_without_parameter_groups_says_what_is_needed() -> None:
    with pytest.raises(
        UserError, match=r"lr_decay is 2.6: expected one optimizer parameter group per layer group, .*parameter_groups"
    ):
        train(ProgressiveUnfreezing(GROUPS, lr_decay=2.6), lambda module: torch.optim.SGD(module.parameters(), lr=LR))


def test_a_decay_given_twice_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"lr_decay=2.6 on the callback, but the optimizer's groups have learning rates"
    ):
        train(ProgressiveUnfreezing(GROUPS, lr_decay=2.6))


def test_a_checkpoint_taken_inside_a_step_holds_the_schedulers_learning_rates() -> None:
    class Inside(ToyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found.append([group["lr"] for group in self.trainer.optimizers[0].state_dict()["param_groups"]])
            return super().training_step(batch, batch_idx)

    found: list[list[float]] = []
    phases = [{"groups": ["*"], "lr_multiplier": 0.5}]
    trainer(ProgressiveUnfreezing(GROUPS, phases=phases), max_epochs=1).fit(Inside(optimizer=decayed))
    assert found[1:] == [BASE] * (len(found) - 1)


def test_a_checkpoint_taken_inside_a_step_leaves_the_step_as_it_is() -> None:
    class Saving(ToyModule):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            optimizer.state_dict()

    phases = [{"groups": ["*"], "lr_multiplier": 0.5}]
    saving, plain = Saving(), ToyModule()
    for module in (saving, plain):
        trainer(ProgressiveUnfreezing(GROUPS, phases=phases), max_epochs=1).fit(module)
    torch.testing.assert_close(saving.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_step_that_fails_leaves_the_configured_learning_rates() -> None:
    class Failing(ToyModule):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            within.append((unfreezing.learning_rates(optimizer), [group["lr"] for group in optimizer.param_groups]))
            raise RuntimeError("no luck")

    within: list[tuple[list[float], list[float]]] = []
    unfreezing = ProgressiveUnfreezing(GROUPS, phases=[{"groups": ["*"], "lr_multiplier": 0.5}])
    run = trainer(unfreezing, max_epochs=1)
    with pytest.raises(RuntimeError, match="no luck"):
        run.fit(Failing(optimizer=decayed))
    halves = [base / 2 for base in BASE]
    assert within == [(halves, halves)]
    assert [group["lr"] for group in run.optimizers[0].param_groups] == BASE


def test_a_shape_over_a_phase_of_unknown_length_is_refused() -> None:
    until = {"plateau": {"monitor": "val/loss"}}
    with pytest.raises(UserError, match="phase 1: one_cycle needs the phase's length"):
        train(ProgressiveUnfreezing(GROUPS, until=until, lr_schedule="one_cycle"))
