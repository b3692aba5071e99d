"""LoRA and DoRA: what stays frozen, what is merged, and what is saved."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from backbones import TIMM, images, loader_of, timm_network, transformer
from lightning.pytorch.callbacks import ModelCheckpoint
from strategy_toys import HEAD, Pretrained, callbacks, equal, fit, moved, state
from torch import nn
from unfreezing_toys import Recorder, trainer

from lightning_transfer import (
    Classifier,
    ExponentialMovingAverage,
    FastCNN,
    LowRankAdaptation,
    LSTMClassifier,
    WeightInterpolation,
)
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.shown_groups import head_of, own_groups


@pytest.mark.parametrize("strategy", ["lora", "dora"])
def test_adapters_leave_the_base_as_it_is_and_merge_into_a_plain_network(strategy: str, tmp_path: Path) -> None:
    module, outputs = Pretrained(), []
    before = state(module)

    class Outputs(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            outputs.append(pl_module.eval()(torch.ones(3, 4)))
            pl_module.train()

    saving = ModelCheckpoint(tmp_path, "best")  # of the last epoch
    fit(strategy, module, more=[Outputs(), saving])
    assert module.state_dict().keys() == before.keys(), "a plain network"
    assert all(parameter.requires_grad for parameter in module.parameters())
    torch.testing.assert_close(module.eval()(torch.ones(3, 4)), outputs[0], rtol=0, atol=1e-6)
    assert moved(module, before) == {"body.0.weight", "body.2.weight"} | HEAD, "biases and norm layers stay"
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    base = {name.replace("base_layer.", ""): value for name, value in saved["adapted_state_dict"].items()}
    assert [name for name in before if not torch.equal(base[name], before[name])] == sorted(HEAD, reverse=True)
    assert saved["state_dict"].keys() == before.keys()
    torch.testing.assert_close(saved["state_dict"], module.state_dict(), rtol=0, atol=1e-6)


class Special(nn.Module):
    """Has a plain layer, one of another kind, and a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, padding=1)
        self.between: nn.Module = nn.Identity()
        if kind in ("circular", "reflect"):
            self.between = nn.Conv2d(4, 4, 3, padding=1, padding_mode=kind)
        elif kind == "dilated":
            self.between = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        elif kind == "dilated same":
            self.between = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        elif kind == "hooked":
            with warnings.catch_warnings(action="ignore"):
                self.between = nn.utils.weight_norm(nn.Conv2d(4, 4, 1))
        elif kind == "two paths":
            one = nn.Conv2d(4, 4, 1)
            self.between = nn.Sequential(one, nn.ReLU(), one)
        elif kind == "tied":
            self.between = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
            self.between[1].weight = self.between[0].weight  # type: ignore[index, union-attr]
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) if kind == "encoder" else None
        self.head = nn.Linear(4, 3)
        self.layer_groups = {"body": ["plain", "between", *(["encoder"] if self.encoder else [])], "head": ["head"]}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.between(self.plain(inputs[:, :, :6, :6])).flatten(2).transpose(1, 2)
        return self.head((features if self.encoder is None else self.encoder(features)).mean(1))


KINDS = ["circular", "reflect", "dilated", "dilated same", "hooked", "two paths", "tied", "encoder"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_and_validated_is_what_is_merged(kind: str) -> None:
    torch.manual_seed(0)
    module, outputs, given = Classifier(Special(kind), 3, optimizer=rate), [], images(2).images

    class Outputs(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            with torch.no_grad():
                outputs.extend([pl_module.eval()(given), merged_output(pl_module)])

    def merged_output(adapted: L.LightningModule) -> torch.Tensor:
        checkpoint = {"state_dict": adapted.state_dict()}
        adapted.on_save_checkpoint(checkpoint)
        plain = Classifier(Special(kind), 3)
        plain.load_state_dict(checkpoint["state_dict"])
        return plain.eval()(given)

    before = state(module)
    trainer(*callbacks("lora"), Outputs(), max_epochs=3).fit(module, loader_of([images(0), images(1)]))
    torch.testing.assert_close(module.eval()(given), outputs[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    assert "network.plain.weight" in moved(module, before)


def rate(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.05)


def test_run_is_resumed_with_its_own_alpha_alone(tmp_path: Path) -> None:
    fit("lora", Pretrained(), tmp_path)
    run = trainer(LowRankAdaptation(alpha=64), *callbacks("lora")[1:])
    with pytest.raises(UserError, match="adapters are not those of LowRankAdaptation with rank 8, alpha 64 and dora"):
        run.fit(Pretrained(), ckpt_path=tmp_path / "step=4.ckpt")
    with pytest.raises(UserError, match="alpha is 0: expected a whole number of at least 1"):
        LowRankAdaptation(alpha=0)


def test_saved_adapters_load_on_their_own(tmp_path: Path) -> None:
    from peft import PeftModel

    network = timm_network("test_resnet")
    start = state(network)
    module = Classifier(network, 3, optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))
    saving = ModelCheckpoint(tmp_path, "best")
    trainer(*callbacks("lora"), saving, max_epochs=2).fit(module, loader_of([images(0), images(1)]))
    plain = timm_network("test_resnet", seed=1)
    plain.load_state_dict(start)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "best_adapter")).eval()
    expected = network.eval()(images(2).images)
    torch.testing.assert_close(adapted(images(2).images), expected, rtol=1e-4, atol=1e-5)
    assert float((expected - timm_network("test_resnet").eval()(images(2).images)).abs().max()) > 1e-3


def test_adapters_thaw_group_by_group_with_a_schedule_and_share_the_plan() -> None:
    module, recorder = Pretrained(), Recorder()
    fit("lora", module, changes={"schedule": "gradual", "until": {"epochs": 1}}, more=[recorder])
    trained = [{name.split(".lora_")[0] for name in names} for names in recorder.trainable[::6]]
    assert trained == [HEAD, HEAD | {"body.2"}, HEAD | {"body.2", "body.0"}]


def test_average_of_adapters_is_merged_and_resumes(tmp_path: Path) -> None:
    module, resumed = Pretrained(), Pretrained()
    averaging = [ExponentialMovingAverage(decay=0.5)]
    fit("lora", module, tmp_path, more=averaging)
    saved = torch.load(tmp_path / "step=16.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == module.state_dict().keys()
    fit("lora", resumed, resume=tmp_path / "step=16.ckpt", more=[ExponentialMovingAverage(decay=0.5)])
    assert equal(state(resumed), state(module))
    with pytest.raises(UserError, match=r"compose configs/strategies/lora.yaml before configs/options/ema.yaml"):
        trainer(ExponentialMovingAverage(), *callbacks("lora")).fit(Pretrained())


@pytest.mark.parametrize("name", [*TIMM, "bert", "gpt2"])
def test_networks_of_every_library_are_adapted_and_merged_or_refused(name: str) -> None:
    network = timm_network(name) if name in TIMM else transformer(name)
    module = Classifier(network, 3)
    adaptation = LowRankAdaptation(rank=4)
    run = SimpleNamespace(strategy=None, callbacks=[adaptation])
    inputs = (images().images,) if name in TIMM else (torch.arange(12).reshape(2, 6) + 4, torch.tensor([6, 4]))
    before = module.eval()(*inputs)
    adaptation.setup(run, module, "fit")  # type: ignore[arg-type]
    for parameter_name, parameter in module.named_parameters():
        if "lora_" in parameter_name:
            nn.init.normal_(parameter, std=0.02)
    adapted = module.eval()(*inputs)
    adaptation.teardown(run, module, "fit")  # type: ignore[arg-type]
    merged = module.eval()(*inputs)
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    if name != "test_nfnet":  # its branches begin with a factor of 0
        assert not torch.equal(merged, before)


def test_fit_whose_checkpoint_is_not_plain_ends_without_adapters_on_their_own(tmp_path: Path) -> None:
    class Own(Pretrained):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["own"] = Path("x")  # which a safe reading does not make

    saving = ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    with pytest.warns(UserWarning, match=r"adapters are not saved on their own: .*best\.ckpt is no plain checkpoint"):
        fit("lora", Own(), more=[saving])
    assert not (tmp_path / "best_adapter").exists()


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = Classifier(LSTMClassifier(9, 3), 3)
    with pytest.raises(UserError, match=r"peft adapts no recurrent layer such as lstm\.0\.forward_direction, a LSTM"):
        trainer(LowRankAdaptation()).fit(lstm, [images()])
    fit("lora", Pretrained(), tmp_path)
    changed = trainer(LowRankAdaptation(rank=4), *callbacks("lora")[1:])
    with pytest.raises(UserError, match=r"adapters are not those of LowRankAdaptation with rank 4, alpha 16 and"):
        changed.fit(Pretrained(), ckpt_path=tmp_path / "step=4.ckpt")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.9.0")
    with pytest.raises(UserError, match=r"peft is 0\.9\.0: expected 0\.21 or later"):
        trainer(LowRankAdaptation()).fit(Pretrained())
    LowRankAdaptation()  # a test and a prediction need no peft
    interpolation = type("Own", (WeightInterpolation,), {})(monitor="val/loss")
    monkeypatch.undo()
    with pytest.raises(UserError, match="LowRankAdaptation and WeightInterpolation: expected one of them"):
        trainer(LowRankAdaptation(), interpolation).fit(Pretrained())
    with pytest.raises(UserError, match="rank is 0: expected a whole number of at least 1"):
        LowRankAdaptation(rank=0)


class Square(nn.Conv2d):
    """A convolution with a constructor of its own, by which peft can make no other one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


def test_convolutions_of_fast_cnn_are_adapted_and_one_with_another_constructor_is_left_alone() -> None:
    module: Any = Classifier(FastCNN(3, widths=[8, 8, 8]), 3)
    module.network.block1.extra = Square(8)
    head = head_of(own_groups(module))
    assert head is not None
    LowRankAdaptation()._adapt(module.network, head)
    adapted = [name for name, _ in module.network.named_parameters() if "lora_" in name]
    assert any("convolutions" in name for name in adapted)
    assert not any("extra" in name for name in adapted)
