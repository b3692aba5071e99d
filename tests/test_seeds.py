"""What a run draws follows from its seed, on the command line and in Python."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from lightning_transfer import Classifier, DemoImages, SeedCNN
from lightning_transfer.data.augment import Augmentation


class Draws(L.Callback):
    """Keeps the rows and the pixels of the first batch, and a number that is drawn in its step."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.current_epoch == 0:
            self.seen = torch.cat([batch.indices.float(), batch.images.flatten(), torch.rand(8)])


def fit(max_epochs: int = 1, checkpoint: str | None = None) -> tuple[torch.Tensor, Classifier, L.Trainer]:
    draws, model = Draws(), Classifier(SeedCNN(10), 10)
    data = DemoImages(examples_per_class=4, batch_size=8, augmentation=Augmentation(crop_padding=2))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=[draws],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return getattr(draws, "seen", torch.empty(0)), model, trainer


def test_each_process_each_batch_and_each_epoch_has_a_dropout_of_its_own() -> None:
    model, draws = Classifier(SeedCNN(10), 10), []
    for epoch, batch_idx, rank in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)):
        model.trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        model.on_train_batch_start(None, batch_idx)
        draws.append(tuple(torch.rand(8).tolist()))
    assert len(set(draws)) == 4
    assert draws[-1] == draws[0]


@pytest.fixture
def unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def test_each_seed_of_torch_draws_another_order_augmentation_and_dropout(unseeded: None) -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(fit()[0])
    rows = slice(0, 8)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0][rows], draws[2][rows])
    assert not torch.equal(draws[0][-8:], draws[2][-8:])
    assert not torch.equal(draws[0][8:-8], draws[2][8:-8])


def test_resumed_fit_draws_by_the_seed_of_its_checkpoint(unseeded: None, tmp_path: Any) -> None:
    torch.manual_seed(1)
    _, _, trainer = fit(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(1)
    _, whole, _ = fit(max_epochs=2)
    torch.manual_seed(2)  # as a new process has it
    _, resumed, _ = fit(max_epochs=2, checkpoint=str(tmp_path / "half.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
