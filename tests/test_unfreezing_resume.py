"""A run resumed from any of its checkpoints ends as the run that was not interrupted, bit for bit."""

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from unfreezing_toys import NORM_GROUPS, Recorder, ToyModule, group_of, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.schedule import Until

PLATEAU = {"monitor": "val/loss", "patience": 2, "min_delta": 0.3, "restore_best": True}
SCHEDULES: dict[str, dict[str, Any]] = {
    "epochs": {"until": {"epochs": 1}},
    "steps": {"until": {"steps": 4}},
    "fraction": {"until": {"fraction": 0.3}},
    "plateau": {"until": {"plateau": PLATEAU}},
    "chain": {"schedule": "chain", "until": {"steps": 5}},
    "shaped": {"until": {"steps": 7}, "lr_schedule": "slanted_triangular"},
}
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "mid-epoch and last batch": {"every_n_train_steps": 3},
    "validation end": {"every_n_epochs": 1},
    "epoch end": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}


STEPS = {
    "mid-epoch and last batch": [3, 6, 9, 12, 15, 18, 21, 24],
    "validation end": [3, 6, 9, 12, 15, 18, 21, 24],
    "epoch end": [6, 12, 18, 24],
}


def make_module() -> ToyModule:
    def optimizer(module: ToyModule) -> torch.optim.Optimizer:
        groups = parameter_groups(module, NORM_GROUPS, lr=0.1, lr_decay=2.6)
        return torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01)

    return ToyModule(
        norm=True, optimizer=optimizer, scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    )


def result(run: L.Trainer, module: ToyModule) -> dict[str, Any]:
    optimizer = run.optimizers[0]
    return {
        "weights": module.state_dict(),
        "optimizer": [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]],
        "learning rates": [group["lr"] for group in optimizer.param_groups],
        "phase": next(c.phase_index for c in run.callbacks if isinstance(c, ProgressiveUnfreezing)),
        "step": run.global_step,
    }


def run_all(
    unfreezing: ProgressiveUnfreezing, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any
) -> dict[str, Any]:
    module, run = make_module(), trainer(unfreezing, *callbacks, **{"max_epochs": 4, **options})
    run.fit(module, ckpt_path=ckpt_path)
    return result(run, module)


def by_step(path: Path) -> int:
    return int(re.findall(r"step=(\d+)", path.name)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        *((schedule, "mid-epoch and last batch") for schedule in SCHEDULES),
        *((schedule, kind) for schedule in ("steps", "plateau") for kind in ("validation end", "epoch end")),
    ],
)
def test_resume_from_every_checkpoint_equals_the_uninterrupted_run(schedule: str, kind: str, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", **CHECKPOINTS[kind])
    # Twice an epoch, in mid-epoch and at its end.
    options = {"val_check_interval": 3, "num_sanity_val_steps": 0}
    expected = run_all(ProgressiveUnfreezing(NORM_GROUPS, **SCHEDULES[schedule]), checkpoint, **options)
    assert expected["phase"] >= 2, "the schedule must pass two transitions to test anything"
    paths = sorted(tmp_path.glob("*.ckpt"), key=by_step)
    assert [by_step(path) for path in paths] == STEPS[kind]
    for path in paths:
        resumed = run_all(ProgressiveUnfreezing(NORM_GROUPS, **SCHEDULES[schedule]), ckpt_path=path, **options)
        torch.testing.assert_close(
            resumed, expected, rtol=0, atol=0, msg=lambda text, path=path: f"{path.name}: {text}"
        )


def test_resume_by_the_hpc_route_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    class Requeue(L.Callback):
        """Writes what Lightning writes when SLURM announces the end of the job, in mid-epoch after a transition."""

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 10:
                trainer.save_checkpoint(trainer._checkpoint_connector.hpc_save_path(trainer.default_root_dir))

    expected = run_all(ProgressiveUnfreezing(NORM_GROUPS), Requeue(), root=tmp_path)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]
    resumed = run_all(ProgressiveUnfreezing(NORM_GROUPS), root=tmp_path, ckpt_path="hpc")
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


def test_resume_with_gradient_accumulation_and_max_steps_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=1)
    options = {"accumulate_grad_batches": 2, "max_epochs": -1, "max_steps": 9}
    expected = run_all(ProgressiveUnfreezing(NORM_GROUPS, until={"steps": 2}), checkpoint, **options)
    for path in tmp_path.glob("*.ckpt"):
        resumed = run_all(ProgressiveUnfreezing(NORM_GROUPS, until={"steps": 2}), ckpt_path=path, **options)
        torch.testing.assert_close(
            resumed, expected, rtol=0, atol=0, msg=lambda text, path=path: f"{path.name}: {text}"
        )


def test_the_first_resumed_batch_has_the_right_trainable_set(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=3)
    run_all(ProgressiveUnfreezing(NORM_GROUPS), checkpoint)
    for path in tmp_path.glob("*.ckpt"):
        if by_step(path) == 24:
            continue  # nothing is left to train
        recorder = Recorder()
        run_all(ProgressiveUnfreezing(NORM_GROUPS), recorder, ckpt_path=path)
        groups = {group_of(name) for name in recorder.trainable[0]}
        assert groups == set(list(NORM_GROUPS)[max(0, 2 - by_step(path) // 6) :])


def test_a_checkpoint_of_another_callbacks_run_starts_at_the_first_phase(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_epochs=1)
    trainer(checkpoint, max_epochs=1).fit(make_module())
    recorder = Recorder()
    run_all(ProgressiveUnfreezing(NORM_GROUPS), recorder, ckpt_path=tmp_path / "step=6.ckpt")
    assert [len(names) for names in recorder.trainable[::6]] == [2, 6, 8]


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=8)
    run_all(ProgressiveUnfreezing(NORM_GROUPS), checkpoint)
    with pytest.raises(
        UserError, match=r"the checkpoint is in phase 2, training body.2, head; here, phase 2 trains body.0:"
    ):
        run_all(ProgressiveUnfreezing(NORM_GROUPS, "chain"), ckpt_path=tmp_path / "step=8.ckpt")
    with pytest.raises(UserError, match="here, phase 2 does not exist: resume with"):
        run_all(ProgressiveUnfreezing(NORM_GROUPS, "linear_probe"), ckpt_path=tmp_path / "step=8.ckpt")


def test_a_first_phase_is_whole_where_a_run_without_the_callback_stopped_in_mid_epoch(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=4)
    trainer(checkpoint, max_epochs=1).fit(make_module())
    recorder = Recorder()
    run_all(ProgressiveUnfreezing(NORM_GROUPS), recorder, ckpt_path=tmp_path / "step=4.ckpt")
    assert [len(names) for names in recorder.trainable] == [2] * 6 + [6] * 6 + [8] * 8


GRADUAL = [
    {"groups": ["head"], "until": {"epochs": 1}},
    {"groups": ["body.2"], "until": {"plateau": {"monitor": "val/loss", "patience": 9}}, "lr_multiplier": 0.5},
    {"groups": ["body.0"]},
]
OTHERS: dict[str, tuple[Any, str]] = {
    "an end": (
        lambda phases: phases[0].update(until={"epochs": 2}),
        "phase 1 until epochs is 2: expected 1, as in the",
    ),
    "another end": (
        lambda phases: phases[0].update(until={"steps": 6}),
        "phase 1 until epochs is None: expected 1, as",
    ),
    "a plateau's patience": (
        lambda phases: phases[1].update(until={"plateau": {"monitor": "val/loss", "patience": 8}}),
        "phase 2 until plateau patience is 8: expected 9, as in the checkpoint",
    ),
    "a multiplier": (lambda phases: phases[1].pop("lr_multiplier"), "phase 2 lr_multiplier is 1: expected 0.5, as in"),
    "a shape": (
        lambda phases: phases[2].update(lr_schedule="one_cycle"),
        "phase 3 lr_schedule is one_cycle: expected constant, as in the checkpoint; resume with the schedule that the",
    ),
    "a phase more": (
        lambda phases: phases.insert(2, {"groups": ["head"], "only": True, "until": {"steps": 1}}),
        "number of phases is 4: expected 3, as in the checkpoint",
    ),
    "the order of later phases": (
        lambda phases: phases[2].update(groups=["head"], only=True),
        "phase 3 groups is head: expected body.0, as in the checkpoint",
    ),
}


@pytest.fixture(scope="module")
def gradual_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the second of three phases."""
    folder = tmp_path_factory.mktemp("gradual")
    checkpoint = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", every_n_train_steps=8)
    run_all(ProgressiveUnfreezing(NORM_GROUPS, phases=GRADUAL, rest="frozen"), checkpoint, max_epochs=2)
    return folder / "step=8.ckpt"


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_is_refused_where_the_schedule_differs_in(what: str, gradual_checkpoint: Path) -> None:
    change, message = OTHERS[what]
    phases = copy.deepcopy(GRADUAL)
    change(phases)
    unfreezing = ProgressiveUnfreezing(NORM_GROUPS, phases=phases, rest="frozen")
    with pytest.raises(UserError, match=message) as error:
        run_all(unfreezing, ckpt_path=gradual_checkpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer_groups": {**NORM_GROUPS, "body.0": ["body.3"], "body.2": ["body.0", "body.2"]}},
            "layer group body.0 is body.3.weight, body.3.bias: expected body.0.weight, body.0.bias, as in the",
        ),
        ({"rest": "trainable"}, None),
        ({"lr_decay": 1.5}, "lr_decay is 1.5: expected None, as in the checkpoint"),
        ({"frozen_norm_layers": "tracking"}, "frozen_norm_layers is tracking: expected eval, as in the checkpoint"),
    ],
)
def test_a_checkpoint_is_refused_where_the_names_are_the_same_and_the_rest_differs(
    options: dict[str, Any], message: str | None, gradual_checkpoint: Path
) -> None:
    given = {"layer_groups": NORM_GROUPS, "phases": GRADUAL, "rest": "frozen", **options}
    if message is None:  # nothing is outside the layer groups: it is the same schedule
        run_all(ProgressiveUnfreezing(**given), ckpt_path=gradual_checkpoint, max_epochs=2)
        return
    with pytest.raises(UserError, match=message):
        run_all(ProgressiveUnfreezing(**given), ckpt_path=gradual_checkpoint)


def test_a_checkpoint_of_the_same_schedule_in_other_words_is_resumed(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=8)
    expected = run_all(ProgressiveUnfreezing(NORM_GROUPS, until={"fraction": np.float64(0.25)}), checkpoint)
    phases: list[Any] = [
        {"groups": ["head"], "until": Until(fraction=0.25), "lr_multiplier": 1},
        {"groups": "body.2", "until": {"fraction": 0.25}},
        {"groups": ["body.0"]},
    ]
    resumed = run_all(ProgressiveUnfreezing(NORM_GROUPS, phases=phases), ckpt_path=tmp_path / "step=8.ckpt")
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


def test_a_checkpoint_of_an_earlier_version_is_resumed_where_its_phase_trains_the_same(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=8)
    expected = run_all(ProgressiveUnfreezing(NORM_GROUPS), checkpoint)
    path = tmp_path / "step=8.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["callbacks"]["ProgressiveUnfreezing"]["schedule"]
    del saved["callbacks"]["ProgressiveUnfreezing"]["validation_metrics"]
    torch.save(saved, path)
    resumed = run_all(ProgressiveUnfreezing(NORM_GROUPS), ckpt_path=path)
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"the checkpoint is in phase 2, training body.2, head"):
        run_all(ProgressiveUnfreezing(NORM_GROUPS, "chain"), ckpt_path=path)
