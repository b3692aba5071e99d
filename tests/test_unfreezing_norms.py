"""Norm layers and recurrent layers in frozen groups."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from unfreezing_toys import NORM_GROUPS, ToyModule, trainer

from lightning_transfer import ProgressiveUnfreezing

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Watch(L.Callback):
    """Notes the state of the toy's norm layer after each batch, and how it computes."""

    def __init__(self) -> None:
        self.statistics: list[dict[str, Tensor]] = []
        self.training: list[bool] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        norm = pl_module.body[3]
        self.statistics.append({name: getattr(norm, name).clone() for name in STATISTICS})
        self.training.append(norm.training)


def watch(unfreezing: ProgressiveUnfreezing, **options: Any) -> Watch:
    found = Watch()
    trainer(unfreezing, found, **options).fit(ToyModule(norm=True))
    return found


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in STATISTICS)


def test_a_frozen_batch_norm_keeps_its_statistics_and_goes_on_when_it_thaws() -> None:
    # A validation in mid-phase, too: Lightning switches modes around it.
    found = watch(ProgressiveUnfreezing(NORM_GROUPS, until={"epochs": 2}), max_epochs=4, val_check_interval=2)
    initial = {"running_mean": torch.zeros(8), "running_var": torch.ones(8), "num_batches_tracked": torch.tensor(0)}
    assert all(equal(statistics, initial) for statistics in found.statistics[:12])
    assert found.training == [False] * 12 + [True] * 12
    assert [int(statistics["num_batches_tracked"]) for statistics in found.statistics[12:]] == list(range(1, 13))


def test_a_batch_norm_that_freezes_again_stops_where_it_was() -> None:
    phases = [
        {"groups": ["body.2"], "until": {"epochs": 1}},
        {"groups": ["head"], "only": True, "until": {"epochs": 1}},
        {"groups": ["*"]},
    ]
    found = watch(ProgressiveUnfreezing(NORM_GROUPS, phases=phases), max_epochs=3)
    assert [int(statistics["num_batches_tracked"]) for statistics in found.statistics] == [
        *range(1, 7),
        *[6] * 6,
        *range(7, 13),
    ]
    assert equal(found.statistics[5], found.statistics[11])


def test_a_batch_norm_that_a_trainable_group_shares_trains() -> None:
    class Sharing(ToyModule):
        def __init__(self) -> None:
            super().__init__(norm=True)
            self.head = nn.Sequential(self.body[3], self.head)

    watching = Watch()
    trainer(ProgressiveUnfreezing(["body", "head"], "linear_probe"), watching, max_epochs=1).fit(Sharing())
    assert all(watching.training)
    assert watching.statistics[-1]["num_batches_tracked"] > 0


def test_a_batch_norm_that_stays_frozen_over_a_transition_trains_once_it_thaws() -> None:
    found = watch(ProgressiveUnfreezing(NORM_GROUPS, "chain", until={"epochs": 1}), max_epochs=4)
    assert found.training == [False] * 12 + [True] * 12


def test_a_batch_norm_without_weights_trains_with_its_group() -> None:
    class Unscaled(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.body[3] = nn.BatchNorm1d(8, affine=False)

    found = Watch()
    trainer(ProgressiveUnfreezing(NORM_GROUPS, until={"epochs": 1}), found).fit(Unscaled())
    assert found.training == [False] * 6 + [True] * 12


def test_tracking_lets_a_frozen_batch_norm_follow_the_data() -> None:
    found = watch(ProgressiveUnfreezing(NORM_GROUPS, "linear_probe", frozen_norm_layers="tracking"), max_epochs=1)
    assert int(found.statistics[-1]["num_batches_tracked"]) == 6


def test_a_frozen_network_computes_in_training_as_in_evaluation() -> None:
    class Compare(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            inputs = torch.randn(8, 4)
            in_training = pl_module.body(inputs)
            was = {module: module.training for module in pl_module.modules()}
            assert torch.equal(in_training, pl_module.body.eval()(inputs))
            for module, training in was.items():
                module.training = training

    trainer(ProgressiveUnfreezing(NORM_GROUPS, "linear_probe"), Compare(), max_epochs=1).fit(ToyModule(norm=True))


def test_a_module_that_calls_train_itself_does_not_wake_a_frozen_batch_norm() -> None:
    class Restless(ToyModule):
        def on_train_epoch_start(self) -> None:
            self.train()

    found = Watch()
    trainer(ProgressiveUnfreezing(NORM_GROUPS, "linear_probe"), found, max_epochs=2).fit(Restless(norm=True))
    assert int(found.statistics[-1]["num_batches_tracked"]) == 0


def test_a_batch_norm_that_the_user_keeps_in_eval_mode_stays_there() -> None:
    module = ToyModule(norm=True)
    module.body[3].eval()
    found = Watch()
    trainer(ProgressiveUnfreezing(NORM_GROUPS, until={"epochs": 1}), found).fit(module)
    assert not any(found.training)


def test_modes_are_given_back_after_the_fit() -> None:
    module = ToyModule(norm=True)
    trainer(ProgressiveUnfreezing(NORM_GROUPS, "linear_probe"), max_epochs=1).fit(module)
    assert all(part.training for part in module.modules())


@pytest.mark.filterwarnings("ignore:.*dropout option adds dropout.*:UserWarning")
def test_a_frozen_lstm_between_trainable_parts_still_gives_gradients() -> None:
    class Recurrent(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleDict({"embedding": nn.Linear(1, 4), "lstm": nn.LSTM(4, 8, batch_first=True)})

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.body["lstm"](self.body["embedding"](inputs.unsqueeze(-1)))[0][:, -1])

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            assert pl_module.body["lstm"].training, "cuDNN refuses backward through an LSTM in eval mode"
            assert all(parameter.grad is None for parameter in pl_module.body["lstm"].parameters())
            assert pl_module.body["embedding"].weight.grad.abs().sum() > 0
            checked.append(True)

    checked: list[bool] = []
    phases = [{"groups": ["body.embedding", "head"]}]
    unfreezing = ProgressiveUnfreezing(["body.embedding", "body.lstm", "head"], phases=phases, rest="frozen")
    trainer(unfreezing, Watch(), max_epochs=1).fit(Recurrent())
    assert len(checked) == 6
