"""Mixup and CutMix: what is mixed, what the labels say of it, and that a resumed run mixes the same."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer import Classifier, DemoImages, SeedCNN
from lightning_transfer.data import augment, mixing
from lightning_transfer.data.augment import uniform
from lightning_transfer.data.mixing import Mixing
from lightning_transfer.errors import UserError
from lightning_transfer.modules.losses import LOSSES
from lightning_transfer.modules.targets import count_correct

ROWS = torch.arange(64)
LABELS = ROWS % 4
# Every pixel of an image is the number of its label: a mixed pixel tells the shares.
IMAGES = LABELS.float()[:, None, None, None].expand(64, 3, 16, 16).clone()


def mix(rows: Tensor = ROWS, seed: int = 0, epoch: int = 0, **alphas: float) -> tuple[Tensor, Tensor]:
    images, labels = IMAGES[: len(rows)], LABELS[: len(rows)]
    return Mixing(**alphas)(images, labels, rows, num_classes=4, seed=seed, epoch=epoch)


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 1, "cutmix_alpha": 1}])
def test_label_says_what_the_image_is_made_of(alphas: dict[str, float]) -> None:
    images, shares = mix(**alphas)
    torch.testing.assert_close(shares.sum(1), torch.ones(64))
    torch.testing.assert_close(images.mean((1, 2, 3)), shares @ torch.arange(4.0))
    assert ((shares > 0).sum(1) <= 2).all()
    neighbours = LABELS.roll(1)
    assert (shares[ROWS, LABELS] + shares[ROWS, neighbours] > 0.999).all()
    assert len(shares.amax(1).unique()) > 32  # every image has its own share


def test_cutmix_pastes_one_rectangle_and_mixup_blends_all_pixels_alike() -> None:
    cut = (mix(cutmix_alpha=1.0)[0] != IMAGES)[:, 0]
    rows, columns = cut.any(2), cut.any(1)
    assert torch.equal(cut, rows[:, :, None] & columns[:, None, :])
    assert cut.any()
    assert all((mask.float().diff(dim=1).abs().sum(1) <= 2).all() for mask in (rows, columns))
    blended = mix(mixup_alpha=0.4)[0]
    torch.testing.assert_close(blended.amax((1, 2, 3)), blended.amin((1, 2, 3)))


def test_augmentation_and_mixing_share_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: dict[str, set[int]] = {"augment": set(), "mixing": set()}
    for module in (augment, mixing):
        seen = draws[module.__name__.rpartition(".")[2]]

        def recorded(
            indices: Tensor, seed: int, epoch: int, draw: int, total: int | None, seen: set[int] = seen
        ) -> Tensor:
            seen.add(draw)
            return uniform(indices, seed, epoch, draw, total=total)

        monkeypatch.setattr(module, "uniform", recorded)
    everything = augment.Augmentation(crop_padding=2, horizontal_flip=True, cutout=4)
    everything(IMAGES, ROWS, seed=0, epoch=0)
    mix(mixup_alpha=1.0, cutmix_alpha=1.0)
    assert draws["augment"]
    assert draws["mixing"]
    assert not draws["augment"] & draws["mixing"]


def test_draws_of_a_whole_epoch_are_those_of_the_batch() -> None:
    mixing_both = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0)
    arguments = {"num_classes": 4, "seed": 0, "epoch": 3}
    for one, other in zip(
        mixing_both(IMAGES, LABELS, ROWS, **arguments),
        mixing_both(IMAGES, LABELS, ROWS, **arguments, total=4096),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_either_kind_of_mixing_is_as_frequent_as_the_other() -> None:
    pixels = torch.stack([mix(seed=seed, mixup_alpha=1.0, cutmix_alpha=1.0)[0][:, 0] for seed in range(40)])
    varied = (pixels.flatten(2).amax(2) - pixels.flatten(2).amin(2)) > 1e-3
    assert 0.4 < varied.float().mean() < 0.55  # some rectangles take all of the image, or nothing


def test_share_follows_the_beta_distribution() -> None:
    shares = torch.cat([mix(seed=seed, mixup_alpha=0.3)[1][ROWS, LABELS] for seed in range(200)])
    expected = np.random.default_rng(1).beta(0.3, 0.3, 100_000)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float(shares.quantile(quantile)) == pytest.approx(np.quantile(expected, quantile), abs=0.03)


def test_rectangles_lie_anywhere_and_have_the_area_that_is_drawn() -> None:
    images, shares = zip(*(mix(seed=seed, cutmix_alpha=1.0) for seed in range(50)), strict=True)
    own = torch.cat([share[ROWS, LABELS] for share in shares])
    generator = np.random.default_rng(1)
    centres, sides = generator.random((2, 100_000)), np.sqrt(1 - generator.beta(1, 1, 100_000))
    widths, heights = np.minimum(1, centres + sides / 2) - np.maximum(0, centres - sides / 2)
    for quantile in (0.25, 0.5, 0.75):
        assert float(own.quantile(quantile)) == pytest.approx(np.quantile(1 - widths * heights, quantile), abs=0.05)
    cut = (torch.stack(images) != IMAGES)[:, :, 0].flatten(0, 1).float()
    cut = cut[cut.mean((1, 2)).gt(0) & cut.mean((1, 2)).lt(0.25)]  # small ones, whose place shows
    rows, columns = (cut.amax(axis).argmax(1).float() for axis in (2, 1))
    assert abs(torch.corrcoef(torch.stack([rows, columns]))[0, 1]) < 0.3


def test_draws_depend_on_row_seed_and_epoch_alone() -> None:
    first = mix(mixup_alpha=1.0)
    torch.randn(3)
    assert all(torch.equal(a, b) for a, b in zip(first, mix(mixup_alpha=1.0), strict=True))
    others = mix(seed=1, mixup_alpha=1), mix(epoch=1, mixup_alpha=1), mix(ROWS + 64, mixup_alpha=1)
    for other in others:
        assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
def test_one_hot_shares_are_worth_the_same_as_labels(loss: str) -> None:
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    shares = F.one_hot(LABELS, 4).float()
    values = [LOSSES[loss](4, 0.1)(logits, target) for target in (LABELS, shares)]
    torch.testing.assert_close(*values)
    assert count_correct(logits, LABELS) == count_correct(logits, shares) == (logits.argmax(1) == LABELS).sum()


def test_mixed_example_counts_as_correct_by_the_share_of_the_predicted_class() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert count_correct(logits, torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])) == 0.75


@pytest.mark.parametrize(
    ("alphas", "message"),
    [({"mixup_alpha": -1}, "mixing.mixup_alpha is -1: expected 0 or more"), ({}, "both 0: give one above 0")],
)
def test_alphas_out_of_range_are_refused(alphas: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixing(**alphas)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def run(folder: Path, checkpoint: Path | None = None) -> list[Tensor]:
        L.seed_everything(0)
        model = Classifier(SeedCNN(10), 10)
        data = DemoImages(examples_per_class=6, batch_size=10, mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0))
        saving = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = L.Trainer(max_epochs=2, callbacks=[saving], num_sanity_val_steps=0, **quiet)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        return [parameter.detach().clone() for parameter in model.parameters()]

    expected = run(tmp_path / "whole")
    for step in (4, 8):  # in the middle of the first and of the second epoch
        resumed = run(tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(resumed, expected, strict=True)), step
