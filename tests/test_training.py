"""Training through Lightning: equal to the plain loop, reproducible, exactly resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_transfer import Classifier, DemoImages, SeedCNN
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.errors import UserError


def trainer(folder: Path, **arguments: object) -> L.Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**{**defaults, **arguments})


def classifier(**arguments: object) -> Classifier:
    return Classifier(
        SeedCNN(10), 10, optimizer=lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9), **arguments
    )


def data(**arguments: object) -> DemoImages:
    return DemoImages("source", **{"examples_per_class": 30, "batch_size": 30, **arguments})


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_fit_equals_a_plain_loop_over_the_same_batches(tmp_path: Path) -> None:
    L.seed_everything(3)
    model, module = classifier(), data(batch_size=4, examples_per_class=None)
    plain = SeedCNN(10)
    plain.load_state_dict(model.network.state_dict())
    trainer(tmp_path, max_steps=50, limit_val_batches=0).fit(model, datamodule=module)

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    loader = module.train_dataloader()
    for _, batch in zip(range(50), loader, strict=False):
        images = (batch.images.float() / 255 - 0.5) / 0.5
        # The module folds both steps of the normalisation into one: the same to the last digits, not to the last bit.
        normalised = module.on_after_batch_transfer(batch, 0).images
        torch.testing.assert_close(images, normalised, rtol=0, atol=1e-6)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(normalised), batch.labels).backward()
        optimizer.step()
    assert equal(weights(model.network), weights(plain))


def test_overfit_batches_are_the_same_in_every_epoch(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Rows(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: int) -> None:
            seen.append(batch.indices)

    fit = trainer(tmp_path, max_epochs=3, overfit_batches=2, limit_val_batches=0, callbacks=[Rows()])
    fit.fit(classifier(), datamodule=data())
    assert len(seen) == 6
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:4]))
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[4:]))


def fitted(folder: Path, seed: int) -> list[Tensor]:
    L.seed_everything(seed)
    model = classifier()
    module = data(augmentation=Augmentation(crop_padding=2, horizontal_flip=True))
    trainer(folder, max_epochs=2).fit(model, datamodule=module)
    return weights(model)


def test_same_seed_gives_identical_weights_and_another_seed_different_ones(tmp_path: Path) -> None:
    first = fitted(tmp_path, 1)
    assert equal(first, fitted(tmp_path, 1))
    assert not equal(first, fitted(tmp_path, 2))


class _Snapshots(ModelCheckpoint):
    """A checkpoint every three steps: in mid-epoch, and on the last batch of an epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dirpath=folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run_to_the_end(folder / "root", callbacks=[_Snapshots(folder)])


def run_to_the_end(folder: Path, checkpoint: Path | None = None, **arguments: object) -> list[Tensor]:
    L.seed_everything(0)
    # 9 batches an epoch, augmented, with a schedule by steps: all of it has to go on where it stopped.
    model = classifier(lr_schedule="cosine", warmup_fraction=0.2)
    module = data(examples_per_class=27, augmentation=Augmentation(crop_padding=2, horizontal_flip=True))
    runner = trainer(folder, max_epochs=3, **{"enable_checkpointing": "callbacks" in arguments, **arguments})
    runner.fit(model, datamodule=module, ckpt_path=checkpoint)
    assert runner.global_step == 27
    return weights(model)


@pytest.mark.parametrize("step", range(3, 27, 3))
def test_resumed_run_equals_the_uninterrupted_one(
    uninterrupted: tuple[Path, list[Tensor]], step: int, tmp_path: Path
) -> None:
    folder, expected = uninterrupted
    assert equal(run_to_the_end(tmp_path, checkpoint=folder / f"step={step}.ckpt"), expected)


def learning_rates(folder: Path, **arguments: object) -> list[float]:
    """The learning rate at each of 20 steps in two epochs."""
    rates: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(folder, max_epochs=2, callbacks=[Watch()]).fit(classifier(**arguments), datamodule=data())
    assert len(rates) == 20
    return rates


def test_learning_rate_follows_the_schedule_and_never_exceeds_the_configured_one(tmp_path: Path) -> None:
    rates = learning_rates(tmp_path, lr_schedule="cosine", warmup_fraction=0.25)
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] < 0.0005


@pytest.mark.parametrize("schedule", [{"lr_schedule": "cosine"}, {"warmup_fraction": 0.1}])
def test_learning_rate_over_a_training_without_an_end_is_refused(schedule: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training of known length, set trainer\.max_epochs or trainer\.max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(classifier(**schedule), datamodule=data())


def test_network_learns_the_generated_task_better_than_chance(tmp_path: Path) -> None:
    L.seed_everything(0)
    model = Classifier(SeedCNN(10), 10, optimizer=lambda params: torch.optim.Adam(params, lr=0.002))
    runner = trainer(tmp_path, max_epochs=2)
    runner.fit(model, datamodule=DemoImages("source", batch_size=64))
    assert runner.callback_metrics["val/accuracy"] > 0.3


@pytest.mark.parametrize(
    ("make", "interval", "expected"),
    [
        (
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
            "epoch",
            [0.01] * 10 + [0.005] * 10,
        ),
        (
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.5),
            "step",
            [0.01] * 10 + [0.005] * 10,
        ),
        (lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max"), "epoch", [0.01] * 20),
    ],
)
def test_any_torch_scheduler_can_be_injected(
    make: Callable[..., object], interval: str, expected: list[float], tmp_path: Path
) -> None:
    assert learning_rates(tmp_path, lr_scheduler=make, lr_scheduler_interval=interval) == pytest.approx(expected)


def test_lower_layers_learn_at_the_decayed_rate(tmp_path: Path) -> None:
    model = classifier(lr_decay=2.0)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(model, datamodule=data())
    rates = {group["name"]: group["lr"] for group in model.trainer.optimizers[0].param_groups}
    assert rates == pytest.approx(
        {"convolution1": 0.01 / 16, "convolution2": 0.01 / 8, "hidden1": 0.01 / 4, "hidden2": 0.01 / 2, "head": 0.01}
    )


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mean_squared_error"])
def test_channels_last_and_other_losses_train_the_same_network(loss: str, tmp_path: Path) -> None:
    weights_of = []
    for channels_last in (False, True):
        L.seed_everything(0)
        model = classifier(loss=loss, channels_last=channels_last)
        trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(model, datamodule=data())
        weights_of.append(weights(model))
    for first, second in zip(*weights_of, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("algorithm", "value"), [("norm", 0.1), ("value", 0.001), (None, 0.1)])
def test_gradients_of_a_fused_optimizer_are_clipped_in_bfloat16_as_those_of_a_plain_one(
    tmp_path: Path, algorithm: str | None, value: float
) -> None:
    def trained(fused: bool, clip: float | None) -> dict[str, Tensor]:
        L.seed_everything(1)
        # Not Adam, whose steps hardly tell how long a gradient is.
        module = Classifier(SeedCNN(10), 10, optimizer=lambda params: torch.optim.SGD(params, lr=0.5, fused=fused))
        clipping = {"gradient_clip_val": clip, "gradient_clip_algorithm": algorithm if clip else None}
        trainer(tmp_path, max_steps=3, precision="bf16-mixed", **clipping).fit(module, data())
        return module.state_dict()

    plain = trained(False, value)
    torch.testing.assert_close(trained(True, value), plain)
    assert any(not torch.allclose(tensor, plain[name]) for name, tensor in trained(True, None).items())
