"""What is frozen stays as it is, whoever touches it: parameters of their owner, modes, statistics and buffers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from unfreezing_toys import GROUPS, NORM_GROUPS, Recorder, ToyModule, fit, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.plan_table import plan

# ---- what its owner has frozen ---------------------------------------------------------------------------------------


class Adapted(ToyModule):
    """Has a fixed position and, beside a frozen base, an adapter that trains.

    Args:
        frozen_in: The hook in which the owner freezes, or ``__init__``.
    """

    def __init__(self, frozen_in: str = "__init__", **options: Any) -> None:
        super().__init__(**options)
        self.position = nn.Parameter(torch.ones(4))
        self.body[0].adapter = nn.Parameter(torch.zeros(8))
        if frozen_in == "__init__":
            self.freeze_base()
        else:
            setattr(self, frozen_in, lambda **_: self.freeze_base())

    def freeze_base(self) -> None:
        for parameter in (self.position, self.body[0].weight, self.body[0].bias):
            parameter.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body[0](inputs + self.position) + self.body[0].adapter
        return self.head(self.body[1:](hidden))


ADAPTED_GROUPS = {"low": ["position", "body.0"], "high": ["body.2"], "head": ["head"]}
BASE = {"position", "body.0.weight", "body.0.bias"}


def moved(recorder: Recorder, module: L.LightningModule) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(recorder.weights[0][name], value)}


@pytest.mark.parametrize("frozen_in", ["__init__", "setup", "configure_model", "on_fit_start"])
def test_what_its_owner_has_frozen_stays_frozen_and_is_given_back_so(frozen_in: str) -> None:
    module, unfreezing = Adapted(frozen_in), ProgressiveUnfreezing(ADAPTED_GROUPS)
    for _ in range(2):  # a second fit, too
        recorder = fit(unfreezing, module)
        assert moved(recorder, module) == set(module.state_dict()) - BASE
        assert [len(names) for names in recorder.trainable[::6]] == [2, 4, 5]
        assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == BASE
    assert (
        "frozen before, and kept so (thaw_frozen: false): position, body.0.weight, body.0.bias" in unfreezing.plan_text
    )


def test_what_its_owner_has_frozen_is_trained_on_request_and_given_back_frozen() -> None:
    module = Adapted()
    recorder = fit(ProgressiveUnfreezing(ADAPTED_GROUPS, thaw_frozen=True), module)
    assert moved(recorder, module) == set(module.state_dict())
    assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == BASE


def test_a_resumed_run_keeps_what_its_owner_has_frozen(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=8)
    module, resumed = Adapted(), Adapted()
    trainer(ProgressiveUnfreezing(ADAPTED_GROUPS), checkpoint).fit(module)
    recorder = Recorder()
    trainer(ProgressiveUnfreezing(ADAPTED_GROUPS), recorder).fit(resumed, ckpt_path=tmp_path / "step=16.ckpt")
    torch.testing.assert_close(resumed.state_dict(), module.state_dict(), rtol=0, atol=0)
    assert not set(recorder.trainable[-1]) & BASE


def test_an_optimizer_need_not_hold_what_its_owner_has_frozen_and_may() -> None:
    for make in (
        lambda module: torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1),
        lambda module: torch.optim.SGD(parameter_groups(module, ADAPTED_GROUPS, lr=0.1), lr=0.1, weight_decay=0.1),
    ):
        module = Adapted(optimizer=make)
        assert moved(fit(ProgressiveUnfreezing(ADAPTED_GROUPS), module), module) == set(module.state_dict()) - BASE


def test_a_group_that_its_owner_has_frozen_as_a_whole_has_no_phase_of_its_own() -> None:
    module, unfreezing = ToyModule(), ProgressiveUnfreezing(GROUPS)
    module.body[0].requires_grad_(False)
    recorder = fit(unfreezing, module)
    assert [len(names) for names in recorder.trainable[::6]] == [2, 4, 4]
    assert unfreezing.outcome["because"] is None
    phases = [{"groups": ["head"], "until": {"epochs": 1}}, {"groups": ["body.2"]}]
    assert fit(ProgressiveUnfreezing(GROUPS, phases=phases), module).trainable[-1] == recorder.trainable[-1]


def test_a_phase_or_a_head_of_nothing_but_frozen_parameters_is_refused() -> None:
    module = ToyModule()
    module.head.requires_grad_(False)
    with pytest.raises(UserError, match="the head, head, was frozen before: make it require grad, or set thaw_frozen"):
        fit(ProgressiveUnfreezing(GROUPS), module)
    phases = [{"groups": ["body.*"], "until": {"epochs": 1}}, {"groups": ["head"]}]
    with pytest.raises(UserError, match="phase 2: the weights of head were frozen before; drop the phase, make them"):
        fit(ProgressiveUnfreezing(GROUPS, phases=phases), module)


def test_a_tied_weight_that_its_owner_has_frozen_stays_frozen() -> None:
    module = ToyModule()
    module.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module.head = nn.Linear(4, 4)
    module.head.weight = module.body[0].weight
    module.head.weight.requires_grad_(False)
    recorder = fit(ProgressiveUnfreezing(GROUPS), module)
    assert set(module.state_dict()) - moved(recorder, module) == {"body.0.weight", "head.weight"}


def test_the_plan_leaves_out_what_its_owner_has_frozen() -> None:
    module = Adapted()
    lines = plan(trainer(ProgressiveUnfreezing(ADAPTED_GROUPS)), module).splitlines()
    assert "98" in lines[3].split()
    assert lines[4].startswith("frozen before")
    assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == BASE


# ---- what training would change --------------------------------------------------------------------------------------


class RunningScale(nn.Module):
    """A layer of one's own that keeps a statistic of its batches."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(8))
        self.register_buffer("last", torch.zeros(8), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * inputs.detach().abs().mean(0)
        self.last = inputs.detach().mean(0)
        return inputs / self.scale


class Observer(nn.Module):
    """A layer that keeps the range of its inputs in any mode, as those of quantization do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("highest", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, inputs: Tensor) -> Tensor:
        self.highest.copy_(torch.maximum(self.highest, inputs.detach().max()))
        self.calls += 1
        return inputs


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(8),
    "batch norm without weights": lambda: nn.BatchNorm1d(8, affine=False),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 2)), nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.Flatten()
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "spectral norm by hook": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "a statistic of one's own": RunningScale,
    "an observer": Observer,
}


class Layered(ToyModule):
    """The toy with a layer that training changes."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body[3] = layer()
        self.outputs: list[bool] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.touch()
        return super().training_step(batch, batch_idx)

    def touch(self) -> None:
        pass


class CallsTrain(Layered):
    def touch(self) -> None:
        self.train()


class SetsTraining(Layered):
    def touch(self) -> None:
        for part in self.modules():
            part.training = True


class Unfreezes(Layered):
    def touch(self) -> None:
        self.unfreeze()


class TrainsAtBatchStart(Layered):
    def on_train_batch_start(self, *_: Any) -> None:
        self.train()


class Overwrites(Layered):
    def on_train_batch_start(self, *_: Any) -> None:
        for buffer in self.body[3].buffers():
            buffer.zero_()


class ExactlyTheSame(L.Callback):
    """Compares what is frozen after each batch, and in the first validation, with what it was."""

    def __init__(self, prefix: tuple[str, ...]) -> None:
        self.prefix = prefix
        self.first: dict[str, Tensor] = {}
        self.compared = 0

    def state(self, pl_module: L.LightningModule) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in pl_module.state_dict().items() if name.startswith(self.prefix)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first = self.state(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        torch.testing.assert_close(self.state(pl_module), self.first, rtol=0, atol=0)
        self.compared += 1


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("toucher", [Layered, CallsTrain, SetsTraining, Unfreezes, TrainsAtBatchStart, Overwrites])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_frozen_layer_stays_as_it_is_whoever_touches_it(layer: str, toucher: type[Layered]) -> None:
    torch.manual_seed(0)
    module, watch = toucher(LAYERS[layer]), ExactlyTheSame(("body",))
    trainer(ProgressiveUnfreezing(["body", "head"], "linear_probe"), watch, max_epochs=1).fit(module)
    assert watch.compared == 6
    torch.testing.assert_close(watch.state(module), watch.first, rtol=0, atol=0)
    assert all(part.training for part in module.modules())
    assert not any(part._forward_pre_hooks for part in module.modules() if layer != "spectral norm by hook")


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("groups", [["body", "head"], ["head"]], ids=["a group", "rest"])
def test_a_frozen_layer_computes_as_in_evaluation_and_changes_again_once_it_thaws(
    layer: str, groups: list[str]
) -> None:
    class Compares(CallsTrain):
        def forward(self, inputs: Tensor) -> Tensor:
            outputs = self.body(inputs)
            if self.training and self.trainer.current_epoch == 0:
                found.append(torch.equal(outputs, expected(inputs)))
            return self.head(outputs)

    found: list[bool] = []
    torch.manual_seed(0)
    module = Compares(LAYERS[layer])
    twin = Compares(LAYERS[layer])
    twin.load_state_dict(module.state_dict())
    expected = twin.body.eval()
    unfreezing = ProgressiveUnfreezing(groups, "linear_probe" if len(groups) == 1 else None, rest="frozen")
    recorder = fit(unfreezing, module, max_epochs=2, num_sanity_val_steps=0)
    assert found == [True] * 6
    buffers = [name for name, _ in module.named_buffers() if name in module.state_dict()]
    assert buffers
    still = [torch.equal(module.state_dict()[name], recorder.weights[0][name]) for name in buffers]
    assert all(still) == (len(groups) == 1)


def test_stochastic_weight_averaging_leaves_the_statistics_of_a_frozen_norm_layer() -> None:
    module, watch = ToyModule(norm=True), ExactlyTheSame(("body",))
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    trainer(ProgressiveUnfreezing(["body", "head"], "linear_probe"), averaging, watch, max_epochs=3).fit(module)
    assert watch.compared == 24  # an epoch more, for the statistics of norm layers
    torch.testing.assert_close(watch.state(module), watch.first, rtol=0, atol=0)


def test_stochastic_weight_averaging_renews_the_statistics_of_a_norm_layer_that_trains() -> None:
    module = ToyModule(norm=True)
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    trainer(ProgressiveUnfreezing(NORM_GROUPS, "full"), averaging, max_epochs=3).fit(module)
    assert int(module.body[3].num_batches_tracked) == 6


def test_buffers_outside_the_state_dict_and_outside_the_network_are_left_to_their_owner() -> None:
    class Counting(Layered):
        def __init__(self) -> None:
            super().__init__(RunningScale)
            self.register_buffer("batches", torch.zeros(()))
            self.criterion = Observer()

        def touch(self) -> None:
            self.batches += 1
            self.criterion(torch.ones(1))

    module = Counting()
    fit(ProgressiveUnfreezing(["head"], rest="frozen"), module, max_epochs=1)
    assert int(module.batches) == 6
    assert int(module.criterion.calls) == 6
    assert module.body[3].last.abs().sum() > 0
    assert torch.equal(module.body[3].scale, torch.ones(8))


def test_dropout_and_containers_of_frozen_groups_keep_their_mode() -> None:
    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            modes.append((pl_module.body.training, pl_module.body[3].training, pl_module.body[1].training))

    modes: list[tuple[bool, bool, bool]] = []
    module = ToyModule()
    module.body[3] = nn.Dropout(0.5)
    module.body.register_buffer("mean", torch.zeros(4))
    trainer(ProgressiveUnfreezing(["body", "head"], "linear_probe"), Watch(), max_epochs=1).fit(module)
    assert modes == [(True, True, True)] * 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_layer_stays_frozen_where_the_training_step_calls_train() -> None:
    module, watch = CallsTrain(LAYERS["batch norm"]), ExactlyTheSame(("body",))
    expected = CallsTrain(LAYERS["batch norm"])
    expected.load_state_dict(module.state_dict())
    module.body.compile()
    for each in (module, expected):
        trainer(ProgressiveUnfreezing(["body", "head"], until={"epochs": 1}), max_epochs=2).fit(each)
    torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
    trainer(ProgressiveUnfreezing(["body", "head"], "linear_probe"), watch, max_epochs=1).fit(module)
    assert watch.compared == 6


# ---- the docs --------------------------------------------------------------------------------------------------------


def test_every_guarantee_of_the_docs_names_its_tests_and_what_it_excludes() -> None:
    tests = Path(__file__).parent
    text = (tests.parent / "docs" / "unfreezing.md").read_text()
    section = text.split("## What is guaranteed")[1].split("\n## ")[0]
    guarantees = re.split(r"\n\d\. ", section)[1:]
    assert len(guarantees) == 7
    known = "".join(file.read_text() for file in tests.glob("test_unfreezing_*.py"))
    for guarantee in guarantees:
        assert "*Excluded:*" in guarantee
        names = re.findall(r"- `(\w+)`", guarantee)
        assert names
        assert [name for name in names if f"def {name}(" not in known] == []
