"""The plan: what it says, that fit prints the same, and that it changes nothing."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchvision
from torch import Tensor, nn
from unfreezing_toys import GROUPS, NORM_GROUPS, ToyModule, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.freezing import FreezableModule
from lightning_transfer.transfer.plan_table import kept_for_backward, plan
from lightning_transfer.transfer.resolution import resolve_schedule
from lightning_transfer.transfer.schedule import Until

RESNET = {"stem": ["conv1", "bn1"], **{f"layer{n}": [f"layer{n}"] for n in range(1, 5)}, "head": ["fc"]}


def decayed(module: L.LightningModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameter_groups(module, GROUPS, lr=0.1, lr_decay=2.0), lr=0.1)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


def test_the_plan_says_when_what_how_much_and_at_which_learning_rate() -> None:
    phases = [
        {"groups": ["head"], "until": {"epochs": 1}},
        {"groups": ["body.2"], "until": {"plateau": {"monitor": "val/loss"}, "steps": 4}, "lr_multiplier": 0.5},
        {"groups": ["body.0"], "lr_schedule": "slanted_triangular"},
    ]
    run = trainer(ProgressiveUnfreezing(GROUPS, phases=phases))
    header, *rows = cells(plan(run, ToyModule(optimizer=decayed)))
    assert header[:4] == ["phase", "begins", "until", "trains at learning rate"]
    assert [row[:-1] for row in rows] == [
        ["1", "step 0, epoch 0", "1 epoch", "head 0.1", "18", "13.8 %"],
        ["2", "step 6, epoch 1", "4 steps or plateau of val/loss", "body.2 0.025, head 0.05", "90", "69.2 %"],
        [
            *("3", "by step 10, epoch 1.667", "end of training"),
            *("body.0 0.025, body.2 0.05, head 0.1 (slanted triangular)", "130", "100.0 %"),
        ],
    ]


def test_a_phase_the_training_is_too_short_for_is_marked() -> None:
    rows = cells(plan(trainer(ProgressiveUnfreezing(GROUPS, until={"epochs": 2})), ToyModule()))
    assert [row[1] for row in rows[1:]] == ["step 0, epoch 0", "step 12, epoch 2", "not reached"]


def test_an_epoch_has_a_step_more_where_batches_do_not_divide() -> None:
    run = trainer(ProgressiveUnfreezing(GROUPS), accumulate_grad_batches=4)  # of six batches
    assert [row[1] for row in cells(plan(run, ToyModule()))[1:]] == [
        *("step 0, epoch 0", "step 2, epoch 1", "step 4, epoch 2"),
    ]


def test_a_phase_after_a_plateau_says_so() -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": "val/loss"}})
    rows = cells(plan(trainer(unfreezing), ToyModule()))
    assert [row[1] for row in rows[1:]] == ["step 0, epoch 0", *["after plateau of val/loss"] * 2]


def test_fit_prints_the_same_plan_once_without_the_memory_and_without_a_step_for_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> L.Trainer:
        return trainer(ProgressiveUnfreezing(GROUPS))

    planned = cells(plan(run(), ToyModule(optimizer=decayed)))
    monkeypatch.setattr(ToyModule, "__deepcopy__", lambda *_: pytest.fail("the module is copied"), raising=False)
    module, fitted, steps = ToyModule(optimizer=decayed), run(), []
    step = module.training_step
    monkeypatch.setattr(module, "training_step", lambda *given: steps.append(1) or step(*given))
    with caplog.at_level("INFO"):
        fitted.fit(module)
    [unfreezing] = [found for found in fitted.callbacks if isinstance(found, ProgressiveUnfreezing)]
    assert cells(unfreezing.plan_text) == [row[:-1] for row in planned]
    assert [record.message.count(unfreezing.plan_text) for record in caplog.records].count(1) == 1
    assert len(steps) == 18


def test_the_plan_copies_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = ToyModule(norm=True), []
    step = ToyModule.training_step

    def note(self: ToyModule, *given: Any) -> Tensor:
        seen.append((self is module, {id(parameter) for parameter in self.parameters()}))
        self.loader = None
        return step(self, *given)

    monkeypatch.setattr(ToyModule, "training_step", note)
    plan(trainer(ProgressiveUnfreezing(NORM_GROUPS)), module)
    assert seen == [(False, {id(parameter) for parameter in module.parameters()})] * 3
    assert module.loader is not None


def test_the_plan_changes_neither_the_module_nor_the_random_state_and_writes_nothing(own_folder: Path) -> None:
    before_files = sorted(own_folder.iterdir())
    module = ToyModule(norm=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [(part.training, id(part)) for part in module.modules()]
    random_state = torch.get_rng_state()
    plan(trainer(ProgressiveUnfreezing(NORM_GROUPS)), module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert modes == [(part.training, id(part)) for part in module.modules()]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert sorted(own_folder.iterdir()) == before_files


def test_printing_the_plan_leaves_the_training_as_it_is() -> None:
    class Noisy(ToyModule):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(nn.functional.dropout(self.body(inputs), 0.5, self.training))

    def train(unfreezing: ProgressiveUnfreezing) -> dict[str, Tensor]:
        module = Noisy()
        torch.manual_seed(1)
        trainer(unfreezing).fit(module)
        return module.state_dict()

    quiet = ProgressiveUnfreezing(GROUPS)
    quiet.plan_table = lambda *_: ""
    torch.testing.assert_close(train(ProgressiveUnfreezing(GROUPS)), train(quiet), rtol=0, atol=0)


def test_a_training_step_that_cannot_run_on_its_own_leaves_the_memory_unknown() -> None:
    class Manual(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    rows = cells(plan(trainer(ProgressiveUnfreezing(GROUPS)), Manual()))
    assert {row[-1] for row in rows[1:]} == {"unknown"}


def test_a_plan_leaves_the_random_numbers_of_the_program_as_they_are() -> None:
    class Random(ToyModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            torch.rand(3)
            return super().training_step(batch, batch_idx)

    run, module = trainer(ProgressiveUnfreezing(GROUPS)), Random()
    before = torch.get_rng_state()
    plan(run, module)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trainer_without_the_callback_has_nothing_to_plan() -> None:
    with pytest.raises(UserError, match="has no ProgressiveUnfreezing"):
        plan(trainer(), ToyModule())


def test_kept_for_backward_counts_each_storage_once_and_no_parameters() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    inputs = torch.randn(16, 4)
    # The input for the first weight, the tanh's output for itself and for the second weight.
    assert kept_for_backward(module, lambda: module(inputs).sum()) == 4 * (16 * 4 + 16 * 8)
    module[0].requires_grad_(False)
    assert kept_for_backward(module, lambda: module(inputs).sum()) == 4 * 16 * 8


def test_a_resnet18_with_the_head_alone_keeps_at_most_2_percent_of_what_everything_keeps() -> None:
    network = torchvision.models.resnet18(num_classes=10)
    images = torch.randn(8, 3, 64, 64)
    resolved = resolve_schedule(network, RESNET, "gradual", Until(epochs=1), "constant", None)
    module = FreezableModule(resolved.groups, eval_norm_layers=True)
    kept = []
    for index in range(len(resolved.phases)):
        module.set_trainable(resolved.trainable(index))
        module.hold()
        kept.append(kept_for_backward(network, lambda: network(images).sum()))
    assert kept == sorted(kept)
    assert kept[0] <= 0.02 * kept[-1]
    assert math.prod(kept) > 0


def test_the_memory_column_holds_what_training_keeps() -> None:
    class Measured(ToyModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            results: list[Tensor] = []
            step = super().training_step
            kept.append(kept_for_backward(self, lambda: results.append(step(batch, batch_idx))))
            return results[0]

    kept: list[int] = []
    plan(trainer(ProgressiveUnfreezing(GROUPS), limit_val_batches=0), Measured())
    planned, kept = kept, []
    trainer(ProgressiveUnfreezing(GROUPS), limit_val_batches=0).fit(Measured())
    assert planned == [kept[0], kept[6], kept[12]]


def test_a_training_without_a_given_end_is_planned_for_the_epochs_that_fit_assumes() -> None:
    run = L.Trainer(callbacks=[ProgressiveUnfreezing(GROUPS)], logger=False, accelerator="cpu")
    assert cells(plan(run, ToyModule()))[-1][1] == "step 12, epoch 2"


def test_only_progressive_unfreezing_has_a_plan() -> None:
    class Lookalike(L.Callback):
        """Names what it has as progressive unfreezing does."""

        plan_table = trainable_groups = "a table of the user's"

    with pytest.raises(UserError, match=r"nothing to plan: trainer\.callbacks has no ProgressiveUnfreezing"):
        plan(trainer(Lookalike()), ToyModule())
