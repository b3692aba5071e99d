"""Steps whose gradients are not finite: skipped, counted, and the end of a run only where they persist."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_transfer import ExponentialMovingAverage, Muon, ProgressiveUnfreezing
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.run import training_steps
from lightning_transfer.run.training_steps import MOST_IN_A_ROW, TrainingSteps, has_no_finite_norm

QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
BAD = {3: float("inf"), 6: float("nan"), 7: 1e30}  # by batch; the norm of the last is infinite, its numbers are not


class Spoilt(L.Callback):
    """Makes a gradient what it should not be, after some batches or every one."""

    def __init__(self, bad: dict[int, float] = BAD, every: bool = False) -> None:
        self.bad, self.every = bad, every

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        value = float("nan") if self.every else self.bad.get(trainer.fit_loop.epoch_loop.batch_idx)
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        if value is not None:
            gradients[-1].view(-1)[0] = value


class Net(L.LightningModule):
    layer_groups = ("norm", "head")

    def __init__(self, optimizer: str = "sgd", by_hand: bool = False) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.kind, self.automatic_optimization = optimizer, not by_hand
        self.steps: list[dict[str, Tensor]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.head(self.norm(batch)).square().mean()
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.steps.append({name: value.clone() for name, value in self.named_parameters()})

    def configure_optimizers(self) -> Any:
        if self.kind == "muon":
            return Muon(self.parameters())
        if self.kind == "adamw":
            return torch.optim.AdamW(self.parameters(), 0.1, weight_decay=0.1)
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=0.1)


def batches(bad: dict[int, float] | None = None) -> DataLoader[Tensor]:
    torch.manual_seed(0)
    data = [torch.randn(3, 4) for _ in range(9)]
    for index, value in (bad or {}).items():
        data[index][0, 0] = value
    return DataLoader(data, batch_size=None)  # type: ignore[arg-type]


def fit(callbacks: list[L.Callback], data: Any = None, module: Net | None = None, **trainer: Any) -> Net:
    torch.manual_seed(1)
    module = module or Net()
    torch.nn.init.constant_(module.head.weight, 0.3)
    arguments: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, **QUIET, **trainer}
    L.Trainer(callbacks=callbacks, **arguments).fit(module, data or batches())
    return module


@pytest.mark.parametrize(
    ("optimizer", "by_hand", "settings"),
    [
        ("sgd", False, {"gradient_clip_val": 0.5}),
        ("sgd", False, {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}),
        ("adamw", False, {}),
        ("muon", False, {"accumulate_grad_batches": 2}),
        ("adamw", True, {}),
    ],
    ids=["norm", "value", "none", "accumulated", "manual"],
)
def test_step_that_is_not_finite_changes_nothing(optimizer: str, by_hand: bool, settings: dict[str, Any]) -> None:
    steps = TrainingSteps()
    module = fit([Spoilt(), steps], module=Net(optimizer, by_hand), **settings)
    changes = [
        index
        for index, (before, after) in enumerate(zip(module.steps, module.steps[1:], strict=False), 1)
        if not all(torch.equal(value, after[name]) for name, value in before.items())
    ]
    assert changes == ([1, 5, 8] if "accumulate_grad_batches" in settings else [1, 2, 4, 5, 8])
    assert steps.skipped == (2 if "accumulate_grad_batches" in settings else 3)
    assert steps.in_a_row == 0
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_skipped_step_is_as_if_its_batch_were_not_there() -> None:
    module = fit([Spoilt({8: float("inf")}), TrainingSteps()], gradient_clip_val=0.5)
    shorter = fit([], gradient_clip_val=0.5, limit_train_batches=8)
    assert all(torch.equal(value, shorter.steps[-1][name]) for name, value in module.steps[-1].items())


@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_that_are_finite_stay_what_they_are(clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fit([], gradient_clip_val=clip)
    for reads in (True, False):
        monkeypatch.setattr(training_steps, "costs_nothing_to_read", lambda _, reads=reads: reads)
        module = fit([TrainingSteps()], gradient_clip_val=clip)
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in module.state_dict().items())


def test_on_an_accelerator_gradients_count_as_zero_and_few_steps_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training_steps, "costs_nothing_to_read", lambda _: False)
    looks = []
    monkeypatch.setattr(TrainingSteps, "_look", lambda self, trainer, module: looks.append(trainer.global_step))
    steps = TrainingSteps()
    module = fit([Spoilt(), steps], gradient_clip_val=0.5, log_every_n_steps=4)
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert isinstance(steps._skipped, Tensor)
    assert steps.skipped == 3
    assert looks == [3, 7, 9]
    assert steps.state_dict() == {"examples": 27, "skipped": 3, "in_a_row": {0: 0}}


@pytest.mark.parametrize("reads", [True, False])
def test_run_in_which_they_persist_ends_with_one_line(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_steps, "costs_nothing_to_read", lambda _: reads)
    module = Net()
    with pytest.raises(
        UserError, match=rf"^the gradients of {MOST_IN_A_ROW} steps in a row are not finite after step "
    ):
        fit([Spoilt(every=True), TrainingSteps()], module=module, max_epochs=9, log_every_n_steps=10)
    assert len(module.steps) == MOST_IN_A_ROW - 1
    assert all(value.isfinite().all() for value in module.parameters())


def test_rows_of_a_batch_that_is_not_finite_are_said() -> None:
    rows_of_batches = [np.arange(10) + 100 * number for number in range(9)]
    loader = BatchLoader(lambda rows: torch.ones(len(rows), 4), lambda epoch: rows_of_batches)
    rows = "300, 301, 302, 303, 304, 305, 306, 307 and 2 more"
    with pytest.warns(UserWarning, match=f"such steps are skipped, and counted; its batch has the rows {rows}$"):
        fit([Spoilt(), TrainingSteps()], loader)
    with pytest.raises(UserError, match=r"\(trainer\.gradient_clip_val\); its batch has the rows 100, "):
        fit([Spoilt(every=True), TrainingSteps()], loader, max_epochs=9)


def test_half_of_two_optimizers_that_diverges_for_good_ends_the_run() -> None:
    steps = TrainingSteps()
    trainer = L.Trainer(accelerator="cpu", logger=False, **QUIET)
    trainer.strategy._optimizers = [torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1) for _ in range(2)]

    def step(value: float, optimizer: torch.optim.Optimizer) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, value)
        steps.on_before_optimizer_step(trainer, L.LightningModule(), optimizer)

    for _ in range(MOST_IN_A_ROW - 1):
        step(float("inf"), trainer.optimizers[1])
        step(1.0, trainer.optimizers[0])
    with pytest.raises(UserError):
        step(float("inf"), trainer.optimizers[1])


def test_frozen_layers_averages_and_norm_layers_go_on(tmp_path: Path) -> None:
    """A batch that is not finite: its loss, all gradients and the statistics of the norm layer are NaN."""
    steps, unfreezing = TrainingSteps(), ProgressiveUnfreezing(schedule="gradual")
    callbacks = [unfreezing, ExponentialMovingAverage(0.5), steps]
    module = fit(callbacks, batches({2: float("nan"), 7: float("inf")}), max_epochs=2, logger=CSVLogger(tmp_path))
    assert steps.skipped == 4
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert "train/skipped_steps" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_gradients_of_any_kind_are_judged() -> None:
    good, large = torch.ones(2), torch.full((2,), 1e25)
    assert not has_no_finite_norm([good, good.double(), good.bfloat16(), torch.zeros(0)])
    for bad in (large, good / 0, good * float("nan"), good.bfloat16() / 0):
        assert has_no_finite_norm([good, bad])
    table = nn.Embedding(3, 2, sparse=True)
    (table(torch.tensor([1])).sum() / 0).backward()
    steps = TrainingSteps()
    trainer = L.Trainer(accelerator="cpu", logger=False, **QUIET)
    trainer.strategy._optimizers = [torch.optim.SparseAdam(table.parameters())]
    steps.on_before_optimizer_step(trainer, L.LightningModule(), trainer.optimizers[0])
    assert table.weight.grad is None


def test_counts_go_on_over_a_resume_and_are_not_those_of_a_tested_checkpoint() -> None:
    steps = TrainingSteps()
    fit([Spoilt({8: float("inf")}), steps])
    saved = copy.deepcopy(steps.state_dict())
    resumed = TrainingSteps()
    resumed.load_state_dict(saved)
    module = fit([Spoilt({0: float("inf"), 4: float("inf")}), resumed])
    assert (resumed.examples, resumed.skipped) == (2 * 9 * 3, 3)
    resumed.setup(L.Trainer(accelerator="cpu", logger=False, **QUIET), module, "test")
    resumed.load_state_dict(saved)
    assert (resumed.examples, resumed.skipped) == (2 * 9 * 3, 3)


def test_examples_are_those_of_all_processes() -> None:
    steps = TrainingSteps()
    steps.on_train_batch_end(SimpleNamespace(world_size=2), None, None, torch.zeros(5, 3), 0)  # type: ignore[arg-type]
    assert steps.examples == 10


class Validated(Net):
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", batch.sum())

    def val_dataloader(self) -> DataLoader[Tensor]:
        return batches()


@pytest.mark.parametrize("module", [Net, Validated])
def test_run_whose_last_steps_diverged_ends_with_one_line_though_no_validation_follows(module: type[Net]) -> None:
    with pytest.raises(UserError, match=r"^train/loss is nan after step 9: the training diverged"):
        fit(
            [TrainingSteps()],
            batches({7: float("nan"), 8: float("nan")}),
            module(),
            check_val_every_n_epoch=2,
            num_sanity_val_steps=0,
        )
