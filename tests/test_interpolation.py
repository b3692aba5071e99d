"""WiSE-FT: weights between the start and the end of a fine-tuning, chosen on validation."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from strategy_toys import Pretrained, callbacks, equal, fit, state
from unfreezing_toys import Recorder, trainer

from lightning_transfer import EarlyStopping, ExponentialMovingAverage
from lightning_transfer.errors import UserError


@pytest.mark.parametrize("strategies", [("wise_ft",), ("lp_ft", "wise_ft")])
def test_wise_ft_at_0_and_1_gives_the_start_and_the_end(strategies: tuple[str, ...]) -> None:
    ends, seen = {}, Recorder()
    for coefficient in (0.0, 0.25, 1.0):
        module, seen = Pretrained(), Recorder()
        more = [built for name in strategies[:-1] for built in callbacks(name)]
        fit("wise_ft", module, changes={"coefficients": [coefficient]}, more=[seen, *more])
        ends[coefficient] = state(module)
    plain = Pretrained()
    trainer(*(built for name in strategies[:-1] for built in callbacks(name))).fit(plain)
    start = seen.weights[9 if "lp_ft" in strategies else 0]  # a linear probe, where a head was trained first
    assert equal(ends[0.0], start)
    assert equal(ends[1.0], state(plain))
    for name, value in ends[0.25].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * ends[1.0][name])


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize(
    ("averaged", "options"),
    [(False, {}), (True, {}), (False, {"val_check_interval": 0.5}), (False, {"check_val_every_n_epoch": 2})],
    ids=["plain", "averaged", "validated in mid-epoch", "last epoch not validated"],
)
def test_wise_ft_takes_the_best_on_validation_into_an_ordinary_checkpoint(
    averaged: bool, options: dict[str, Any], share: float, tmp_path: Path
) -> None:
    class Wanted(Pretrained):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            # Better with each step, and best where the first weight has gone a share of its way.
            distance = (self.body[0].weight[0, 0].double() - self.target).abs()
            self.log("val/loss", distance.clamp(max=0.5) - float(self.global_step))

    plain, average = Wanted(), [ExponentialMovingAverage(decay=0.5)] if averaged else []
    plain.target = 0.0
    start = state(plain)
    trainer(*average).fit(plain)
    end = state(plain)
    module, saving = Wanted(), ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    place = "body.0.weight"
    module.target = float(start[place][0, 0]) * (1 - share) + float(end[place][0, 0]) * share
    [interpolation] = callbacks("wise_ft", monitor=None)
    average = [ExponentialMovingAverage(decay=0.5)] if averaged else []
    run = trainer(interpolation, *average, saving, **options)
    run.fit(module)
    assert interpolation.outcome["coefficient"] == share
    assert set(interpolation.outcome["values"]) == {f"{tenth / 10:g}" for tenth in range(11)}
    torch.testing.assert_close(module.state_dict()[place], (1 - share) * start[place] + share * end[place])
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert equal(saved["state_dict"], state(module))
    assert float(run.callback_metrics["val/loss"]) == pytest.approx(interpolation.outcome["values"][f"{share:g}"])


def test_choice_stays_known_where_another_checkpoint_is_validated_after_the_fit(tmp_path: Path) -> None:
    [interpolation] = callbacks("wise_ft")
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    run = trainer(interpolation, saving)
    run.fit(Pretrained())
    outcome = interpolation.outcome
    run.validate(Pretrained(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert interpolation.outcome == outcome != {}


def test_wrong_metric_is_named_after_the_first_validation() -> None:
    [interpolation] = callbacks("wise_ft", monitor="val/f1", mode="max")
    run = trainer(interpolation)
    with pytest.raises(UserError, match="monitor is val/f1, which validation does not log: expected one of"):
        run.fit(Pretrained())
    assert run.global_step == 6  # of 18


def test_early_stopping_that_decides_after_the_choice_is_refused() -> None:
    late = L.pytorch.callbacks.EarlyStopping("val/loss", check_on_train_epoch_end=True)
    with pytest.raises(UserError, match="EarlyStopping of Lightning ends the training after WeightInterpolation"):
        trainer(late, *callbacks("wise_ft")).fit(Pretrained())
    [interpolation] = callbacks("wise_ft")
    trainer(EarlyStopping(patience=1, min_delta=10.0), interpolation).fit(Pretrained())
    assert interpolation.outcome != {}


def test_wise_ft_takes_no_coefficient_whose_value_is_no_number() -> None:
    class Undefined(Pretrained):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            moved = not torch.equal(self.body[0].weight, start)
            self.log("val/loss", self.head.bias.sum() * 0 + (1.0 if moved else torch.nan))

    module = Undefined()
    start = module.body[0].weight.detach().clone()
    [interpolation] = callbacks("wise_ft", coefficients=[0.0, 0.5, 1.0])
    trainer(interpolation).fit(module)
    assert interpolation.outcome["coefficient"] == 1.0


def test_wise_ft_says_where_a_later_callback_ended_the_training_before_its_choice() -> None:
    class Ends(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.should_stop = True

    [interpolation] = callbacks("wise_ft")
    with pytest.warns(UserWarning, match="has chosen no coefficient, as a callback after it ended the training"):
        trainer(interpolation, Ends()).fit(Pretrained())
    assert interpolation.outcome == {}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"coefficients": [0.5, 1.1]}, {}, r"coefficients is \[0.5, 1.1\]: expected numbers from 0, the start, to 1"),
        ({"monitor": None}, {}, "WeightInterpolation has no monitor"),
        ({"monitor": "val/f1", "mode": "max"}, {}, "monitor is val/f1, which validation does not log: expected one of"),
        ({}, {"limit_val_batches": 0}, "nothing is validated: hold out examples"),
    ],
)
def test_wise_ft_that_cannot_choose_is_refused(changes: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit("wise_ft", Pretrained(), changes=changes, **{"max_epochs": 1, **options})
