"""Whether a lower or a higher metric is better, and who goes by it: checkpoints, stopping, plateaus, studies."""

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau

from lightning_transfer import EarlyStopping
from lightning_transfer.directions import decide_direction, direction_of
from lightning_transfer.errors import UserError
from lightning_transfer.modules.optimization import OptimizedModule
from lightning_transfer.transfer.schedule import Plateau

NAMES = {
    "min": "loss val/loss val_loss train/loss_epoch valLoss val/loss/dataloader_idx_0 perplexity val/perplexity"
    " calibration_error test/brier_score mean_squared_error val/accuracy_loss cross_entropy error_rate WER",
    "max": "accuracy val/accuracy val_acc macro_f1 val/f1_score BinaryF1Score recall_at_5 accuracy_top5"
    " auroc val/R2 BLEU average_precision MulticlassAccuracy",
    None: "val/value score val/rank val/loss_gap lossless epoch val/gain",
}


@pytest.mark.parametrize(("direction", "names"), NAMES.items())
def test_direction_follows_from_the_name(direction: str | None, names: str) -> None:
    assert {name: direction_of(name) for name in names.split()} == dict.fromkeys(names.split(), direction)


@pytest.mark.parametrize(
    ("metric", "mode", "message"),
    [
        ("val/loss", "max", "checkpoint.mode is max, and a lower val/loss is better: expected min, or leave it out"),
        ("val/f1", "min", "checkpoint.mode is min, and a higher val/f1 is better: expected max, or leave it out"),
        ("val/gain", None, "checkpoint.mode is not given, and the name val/gain does not say what is better"),
        ("val/gain", "up", "checkpoint.mode is 'up': expected min or max"),
    ],
)
def test_direction_that_does_not_follow_is_asked_for(metric: str, mode: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decide_direction(metric, mode, "checkpoint.mode")
    assert decide_direction("val/gain", "max", "checkpoint.mode") == "max"
    assert decide_direction("val/loss", "min", "checkpoint.mode") == decide_direction("val/loss", None, "") == "min"


@pytest.mark.parametrize("waiting", [EarlyStopping, Plateau])
def test_whoever_waits_for_a_metric_knows_its_direction(waiting: type[EarlyStopping] | type[Plateau]) -> None:
    assert (waiting("val/loss").mode, waiting("val/accuracy").mode) == ("min", "max")
    with pytest.raises(UserError, match=r"mode of EarlyStopping is not given|plateau: mode is not given"):
        waiting("val/gain")
    with pytest.raises(UserError, match="is min, and a higher val/accuracy is better"):
        waiting("val/accuracy", mode="min")


def test_learning_rate_that_falls_while_the_accuracy_rises_is_refused() -> None:
    module = OptimizedModule(torch.nn.Linear(1, 1), lr_scheduler=lambda o: ReduceLROnPlateau(o, "val/accuracy"))
    with pytest.raises(UserError, match=r"mode of model.lr_scheduler is min, and a higher val/accuracy is better"):
        module.configure_optimizers()
