"""LoRA and DoRA: what stays frozen, what is merged, and what is saved."""

from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from backbones import TIMM, images, loader_of, timm_network, transformer
from lightning.pytorch.callbacks import ModelCheckpoint
from strategy_toys import HEAD, Pretrained, callbacks, equal, fit, moved, state
from torch import nn
from unfreezing_toys import Recorder, trainer

from lightning_transfer import Classifier, ExponentialMovingAverage, LowRankAdaptation, LSTMClassifier
from lightning_transfer.errors import UserError


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


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = Classifier(LSTMClassifier(9, 3), 3)
    with pytest.raises(UserError, match=r"peft adapts no recurrent layer such as lstm\.0\.forward_direction, a LSTM"):
        trainer(LowRankAdaptation()).fit(lstm, [images()])
    fit("lora", Pretrained(), tmp_path)
    changed = trainer(LowRankAdaptation(rank=4), *callbacks("lora")[1:])
    with pytest.raises(UserError, match=r"adapters are not those of LowRankAdaptation with rank 4 and dora False"):
        changed.fit(Pretrained(), ckpt_path=tmp_path / "step=4.ckpt")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.9.0")
    with pytest.raises(UserError, match=r"peft is 0\.9\.0: expected 0\.21 or later"):
        LowRankAdaptation()
    with pytest.raises(UserError, match="rank is 0: expected at least 1"):
        monkeypatch.undo() or LowRankAdaptation(rank=0)
