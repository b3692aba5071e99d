"""What freezing does to parameters, optimizers and norm layers during a fit, and that it ends with the fit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from unfreezing_toys import GROUPS, Recorder, ToyModule, fit, group_of, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.plateau import PlateauWatch
from lightning_transfer.transfer.schedule import Plateau

OPTIMIZERS = {
    "sgd": lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda module: torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda module: torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1),
}
EXPECTED = {
    "linear_probe": [{"head"}],
    "full": [set(GROUPS)],
    "gradual": [{"head"}, {"body.2", "head"}, set(GROUPS)],
    "chain": [{"head"}, {"body.0"}, {"body.2"}, set(GROUPS)],
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", EXPECTED)
def test_only_the_phases_groups_move_and_all_of_them_from_its_first_step(optimizer: str, schedule: str) -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, schedule, until=None if schedule == "full" else {"steps": 3})
    module = ToyModule(optimizer=OPTIMIZERS[optimizer])
    recorder = fit(unfreezing, module, max_epochs=4)
    last = {name: value.clone() for name, value in module.state_dict().items()}
    for step, (before, after) in enumerate(zip(recorder.weights, [*recorder.weights[1:], last], strict=True)):
        groups = EXPECTED[schedule][min(step // 3, len(EXPECTED[schedule]) - 1)]
        assert {group_of(name) for name in recorder.trainable[step]} == groups
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == {name for name in before if group_of(name) in groups}


def test_the_grad_of_a_frozen_parameter_is_none_also_when_it_was_trained_before() -> None:
    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            for name, parameter in pl_module.named_parameters():
                assert (parameter.grad is not None) == (group_of(name) in unfreezing.trainable_groups)

    unfreezing = ProgressiveUnfreezing(GROUPS, "chain", until={"steps": 2})
    trainer(unfreezing, Watch(), max_epochs=2).fit(ToyModule())


def test_a_group_that_freezes_again_stays_where_it_was_though_gradients_are_cleared_to_zero() -> None:
    class Zeroing(ToyModule):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad(set_to_none=False)  # a gradient of 0 would let momentum and weight decay go on

    module = Zeroing(optimizer=OPTIMIZERS["sgd"])
    recorder = fit(ProgressiveUnfreezing(GROUPS, "chain", until={"epochs": 1}), module)
    heads = [weights["head.weight"] for weights in recorder.weights]
    assert not torch.equal(heads[0], heads[6])
    assert all(torch.equal(head, heads[6]) for head in heads[6:])


def test_the_optimizer_never_changes_and_keeps_no_state_of_frozen_parameters() -> None:
    class Watch(L.Callback):
        def __init__(self) -> None:
            self.held: list[list[int]] = []
            self.with_state: list[int] = []

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            optimizer = trainer.optimizers[0]
            self.held.append([id(parameter) for group in optimizer.param_groups for parameter in group["params"]])
            self.with_state.append(len(optimizer.state))

    watch = Watch()
    trainer(ProgressiveUnfreezing(GROUPS, until={"epochs": 1}), watch).fit(ToyModule(optimizer=OPTIMIZERS["adamw"]))
    assert all(held == watch.held[0] and len(set(held)) == len(held) == 6 for held in watch.held)
    assert [watch.with_state[step] for step in (0, 5, 6, 12)] == [2, 2, 4, 6]


def test_equal_valued_and_tied_parameters_are_held_once_and_train() -> None:
    class Tied(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.LayerNorm(4))
            self.head = nn.Linear(4, 4)
            self.head.weight = self.body[0].weight

    groups = ["body.0", "body.1", "body.2", "head"]
    module = Tied()
    module.make_optimizer = lambda module: torch.optim.SGD(parameter_groups(module, groups, lr=0.1), lr=0.1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    recorder = fit(ProgressiveUnfreezing(groups, until={"steps": 2}), module, max_epochs=2)
    # The tied weight is the head's: it thaws with it, under the name that comes first.
    assert recorder.trainable[0] == {"body.0.weight", "head.bias"}
    assert recorder.trainable[2] == {"body.0.weight", "head.bias", "body.2.weight", "body.2.bias"}
    assert all(not torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_group_whose_weights_are_all_tied_needs_no_phase_of_its_own() -> None:
    class Tied(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
            self.head = nn.Linear(4, 4)
            self.head.weight = self.body[0].weight

    unfreezing = ProgressiveUnfreezing(["body.0", "body.1", "head"], until={"steps": 2})
    fit(unfreezing, Tied(), max_epochs=2)
    assert unfreezing.phase_index == 1


def test_a_module_that_names_its_layer_groups_needs_none_from_the_callback() -> None:
    module = ToyModule()
    module.layer_groups = {"low": ["body.0"], "high": ["body.2"], "head": ["head"]}
    unfreezing = ProgressiveUnfreezing(
        phases=[{"groups": ["head"], "until": {"steps": 1}}, {"groups": ["low", "high"]}]
    )
    recorder = fit(unfreezing, module, max_epochs=1)
    assert [len(names) for names in recorder.trainable] == [2, 6, 6, 6, 6, 6]


def test_replicas_are_built_anew_at_each_transition_and_at_no_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    anew = "lightning_transfer.transfer.unfreezing.rebuild_replicas"
    monkeypatch.setattr(anew, lambda trainer: steps.append(trainer.global_step))
    fit(ProgressiveUnfreezing(GROUPS, until={"steps": 2}), max_epochs=1)
    assert steps == [0, 2, 4]


def test_rest_trains_throughout_or_never() -> None:
    for rest, count in (("trainable", 4), ("frozen", 2)):
        unfreezing = ProgressiveUnfreezing(["body.0", "head"], "linear_probe", rest=rest)
        assert {len(names) for names in fit(unfreezing, max_epochs=1).trainable} == {count}


def test_transitions_wait_for_the_optimizer_step() -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"steps": 1})
    recorder = fit(unfreezing, max_epochs=2, accumulate_grad_batches=2)
    assert [len(names) for names in recorder.trainable] == [2, 2, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6]


def test_a_fraction_is_of_the_whole_training() -> None:
    recorder = fit(ProgressiveUnfreezing(GROUPS, until={"fraction": 0.25}), max_epochs=4)
    assert [step for step, names in zip(recorder.steps, recorder.trainable, strict=True) if len(names) == 4] == [
        *range(6, 12)
    ]


def test_an_epoch_counts_from_where_its_phase_began() -> None:
    phases = [
        {"groups": ["head"], "until": {"steps": 4}},
        {"groups": ["body.2"], "until": {"epochs": 1}},
        {"groups": ["body.0"]},
    ]
    recorder = fit(ProgressiveUnfreezing(GROUPS, phases=phases), max_epochs=3)
    assert [step for step, names in zip(recorder.steps, recorder.trainable, strict=True) if len(names) == 4] == [
        *range(4, 10)
    ]


class PlateauModule(ToyModule):
    """Logs a given value at each validation, and at the end of each training epoch."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/value", self.values[self.current_epoch], on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/value", self.values[self.current_epoch])


@pytest.mark.parametrize("monitor", ["val/value", "train/value"])
def test_a_plateau_ends_the_phase_after_patience_checks_without_improvement(monitor: str) -> None:
    plateau = {"monitor": monitor, "mode": "min", "patience": 2, "min_delta": 0.05}
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"plateau": plateau})
    #           best, not, better, not, not | best, better, not by enough, not | ...
    values = [3, 3.5, 2, 2.5, 2, 5, 4, 3.96, 4, 1]
    recorder = fit(unfreezing, PlateauModule(values), max_epochs=10)
    first = {len(names): step for step, names in reversed(list(zip(recorder.steps, recorder.trainable, strict=True)))}
    assert {count: step // 6 for count, step in first.items()} == {2: 0, 4: 5, 6: 9}


def test_a_plateau_that_is_seen_between_added_gradients_waits_for_the_optimizer_step() -> None:
    until = {"plateau": {"monitor": "val/value", "mode": "min", "patience": 2}}
    module = PlateauModule([3, 3])  # validated in the middle and at the end of each epoch of six batches
    recorder = fit(
        ProgressiveUnfreezing(GROUPS, until=until),
        module,
        max_epochs=2,
        accumulate_grad_batches=2,
        val_check_interval=3,
    )
    assert [len(names) for names in recorder.trainable] == [2] * 10 + [4] * 2


def test_every_rank_decides_by_the_value_of_the_first() -> None:
    plateau, watch = Plateau("val/value", patience=1, mode="min"), PlateauWatch()
    values = iter([1.0, 2.0])  # of the first rank, which gets no better
    broadcast = SimpleNamespace(broadcast=lambda own: next(values))
    for own in (2.0, 1.0):
        run: Any = SimpleNamespace(callback_metrics={}, strategy=broadcast)
        watch.begin_validation(run, plateau)
        run.callback_metrics["val/value"] = torch.tensor(own)
        watch.end_validation(run, plateau)
    assert watch.is_over


def test_a_plateau_counts_no_validation_twice_where_not_every_epoch_has_one() -> None:
    unfreezing = ProgressiveUnfreezing(
        GROUPS, until={"plateau": {"monitor": "val/value", "mode": "min", "patience": 1}}
    )
    module = PlateauModule([9, 1.0, 9, 1.2, 9, 1.3, 9, 1.1, 9, 1.15, 9, 1.0])  # every other is validated
    recorder = fit(unfreezing, module, max_epochs=12, check_val_every_n_epoch=2)
    assert [len(names) for names in recorder.trainable[::6]] == [2] * 4 + [4] * 6 + [6] * 2


def test_a_plateau_and_a_limit_end_the_phase_by_what_comes_first() -> None:
    until = {"plateau": {"monitor": "val/value", "mode": "min", "patience": 2}, "epochs": 2}
    recorder = fit(ProgressiveUnfreezing(GROUPS, until=until), PlateauModule([5, 4, 3, 3, 3, 3]), max_epochs=6)
    assert [len(names) for names in recorder.trainable[::6]] == [2, 2, 4, 4, 6, 6]


class ManyNames(PlateauModule):
    """Logs its value in every way: by the step and the epoch, in training and validation, for two loaders."""

    loaders = 2

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = ToyModule.training_step(self, batch, batch_idx)
        self.log("value", self.values[self.current_epoch], on_step=True, on_epoch=True)
        self.log("shared", 9.0, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        value = self.values[self.current_epoch] if dataloader_idx == self.loaders - 1 else 5.0
        self.log("val/value", value, on_step=True, on_epoch=True)
        self.log(f"loader{dataloader_idx}", value, add_dataloader_idx=False)
        self.log("shared", value)

    def val_dataloader(self) -> Any:
        loaders = [super(ManyNames, self).val_dataloader() for _ in range(self.loaders)]
        return loaders if self.loaders > 1 else loaders[0]


@pytest.mark.parametrize(
    ("monitor", "loaders"),
    [
        *((name, 2) for name in ("val/value/dataloader_idx_1", "val/value_epoch/dataloader_idx_1", "loader1")),
        *((name, 2) for name in ("value", "value_step", "value_epoch")),
        *((name, 1) for name in ("val/value", "val/value_epoch", "shared")),
    ],
)
def test_a_plateau_finds_its_metric_by_every_name_and_checks_it_once_an_epoch(monitor: str, loaders: int) -> None:
    module = ManyNames([3, 2, 2.5, 2, 5, 4, 4.5, 4, 1])
    module.loaders = loaders
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": monitor, "mode": "min", "patience": 2}})
    recorder = fit(unfreezing, module, max_epochs=9)
    assert [len(names) for names in recorder.trainable[::6]] == [2] * 4 + [4] * 4 + [6]


def test_a_resumed_plateau_knows_that_validation_logs_its_metric(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=4)
    options = {"max_epochs": 6, "check_val_every_n_epoch": 2}
    recorders = []
    for ckpt_path in (None, tmp_path / "step=8.ckpt"):
        module = ManyNames([3.0] * 6)
        module.loaders = 1
        unfreezing = ProgressiveUnfreezing(
            GROUPS, until={"plateau": {"monitor": "shared", "mode": "min", "patience": 1}}
        )
        recorders.append(Recorder())
        saves = [] if ckpt_path else [checkpoint]
        trainer(unfreezing, recorders[-1], *saves, **options).fit(module, ckpt_path=ckpt_path)
    whole, resumed = ([len(names) for names in recorder.trainable] for recorder in recorders)
    assert whole == [2] * 24 + [4] * 12
    assert resumed == whole[8:]


def test_the_value_of_a_step_is_not_found_in_validation_where_lightning_keeps_none() -> None:
    unfreezing = ProgressiveUnfreezing(
        GROUPS, until={"plateau": {"monitor": "val/value_step/dataloader_idx_1", "mode": "min"}}
    )
    with pytest.raises(
        UserError, match=r"'val/value_step/dataloader_idx_1', which neither .*loader0.*val/value_epoch/"
    ):
        fit(unfreezing, ManyNames([1.0] * 3))


def test_a_phase_can_hand_its_best_weights_to_the_next() -> None:
    plateau = {"monitor": "val/value", "mode": "min", "patience": 2, "restore_best": True}
    module = PlateauModule([3, 1, 2, 2, 2])
    recorder = fit(ProgressiveUnfreezing(GROUPS[1:], rest="frozen", until={"plateau": plateau}), module, max_epochs=5)
    best, at_transition = recorder.weights[12], recorder.weights[24]
    assert all(torch.equal(best[name], at_transition[name]) for name in best)
    assert not torch.equal(recorder.weights[23]["head.weight"], best["head.weight"])


@pytest.mark.parametrize(
    ("schedule", "until", "begun", "never", "because"),
    [
        (
            "gradual",
            {"epochs": 2},
            2,
            ["body.0"],
            "phase 3 of 3 never began: phase 2 ends by 2 epochs, and training ended",
        ),
        (
            "gradual",
            {"plateau": {"monitor": "val/loss", "patience": 9}},
            1,
            ["body.0", "body.2"],
            "phase 2 of 3 never began: phase 1 ends by plateau of val/loss, and training ended first, after step 18",
        ),
        ("chain", {"epochs": 1}, 3, [], "phase 4 of 4 never began: phase 3 ends by 1 epoch, and training ended first"),
        ("gradual", {"epochs": 1}, 3, [], None),
        ("linear_probe", None, 1, [], None),
    ],
)
def test_a_phase_that_never_begins_is_said(
    schedule: Any, until: Any, begun: int, never: list[str], because: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, schedule, until=until)
    fit(unfreezing)
    outcome = unfreezing.outcome
    assert (outcome["phases_begun"], outcome["never_trained"]) == (begun, never)
    assert (outcome["because"] or "None").startswith(because or "None")
    said = [str(found.message) for found in recwarn if "never began" in str(found.message)]
    assert said == ([f"{outcome['because']}; never trained: {', '.join(never) or 'none'}"] if because else [])


def test_fit_gives_requires_grad_back_and_validate_and_test_leave_it_alone() -> None:
    module = ToyModule()
    module.body[0].bias.requires_grad_(False)
    module.test_step = module.validation_step
    module.test_dataloader = module.val_dataloader
    before = [parameter.requires_grad for parameter in module.parameters()]
    run = trainer(ProgressiveUnfreezing(GROUPS, "linear_probe"), max_epochs=1)
    run.validate(module, verbose=False)
    assert [parameter.requires_grad for parameter in module.parameters()] == before
    run.fit(module)
    assert [parameter.requires_grad for parameter in module.parameters()] == before
    run.test(module, verbose=False)
    assert [parameter.requires_grad for parameter in module.parameters()] == before


def test_a_fit_that_fails_gives_requires_grad_back() -> None:
    class Failing(ToyModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            raise RuntimeError("no luck")

    module = Failing()
    with pytest.raises(RuntimeError, match="no luck"):
        fit(ProgressiveUnfreezing(GROUPS, "linear_probe"), module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_second_fit_starts_at_the_first_phase() -> None:
    unfreezing, module = ProgressiveUnfreezing(GROUPS, until={"steps": 4}), ToyModule()
    first = fit(unfreezing, module, max_epochs=2)
    second = fit(unfreezing, module, max_epochs=2)
    assert unfreezing.phase_index == 2
    assert first.trainable == second.trainable


def test_a_fit_goes_on_with_the_same_trainer_from_the_first_phase() -> None:
    recorder, module = Recorder(), ToyModule()
    run = trainer(ProgressiveUnfreezing(GROUPS, until={"steps": 2}), recorder, max_epochs=1)
    run.fit(module)
    run.fit_loop.max_epochs = 2
    run.fit(module)
    assert [len(names) for names in recorder.trainable] == [2, 2, 4, 4, 6, 6] * 2


def test_nothing_is_written_and_no_logger_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    def loggers() -> dict[str, tuple[int, list[logging.Handler], bool]]:
        known = [logging.getLogger(name) for name in ("", *logging.root.manager.loggerDict)]
        return {logger.name: (logger.level, list(logger.handlers), logger.propagate) for logger in known}

    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    fit(None, max_epochs=1)
    before = loggers()
    fit(ProgressiveUnfreezing(GROUPS, until={"steps": 2}), max_epochs=1)
    after = loggers()
    assert {name: after[name] for name in before} == before
    assert list(folder.iterdir()) == []
