"""Features that runs share: the same weights as a run alone, computed once, and never taken where they would differ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from backbones import QUIET, texts, transformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_transfer import CIFAR10, Classifier, LowRankAdaptation, ProgressiveUnfreezing
from lightning_transfer.data.batches import TextBatch
from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.errors import UserError
from lightning_transfer.modules.feature_cache import FeatureCache

EPOCHS = 2


class Trunk(nn.Module):
    """A network whose features have a factor that is in no weight, and which counts the images that it computes."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.factor, self.computed = factor, 0
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten())
        self.top = nn.Linear(900, 8)
        self.head = nn.Linear(8, 3)
        for parameter in (*self.body.parameters(), *self.top.parameters()):
            nn.init.normal_(parameter, std=0.05, generator=generator)
        self.layer_groups = {"body": ["body"], "top": ["top"], "head": ["head"]}

    def forward(self, images: Tensor) -> Tensor:
        self.computed += len(images)
        rounding = 2e-7 * self.training  # as where a library computes otherwise in training
        return self.head(self.top(self.body(images) * (self.factor + rounding)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(
    folder: Path,
    seed: int = 0,
    cache: Any = "shared",
    network: nn.Module | None = None,
    schedule: str = "linear_probe",
    lr: float = 0.1,
    **data: Any,
) -> Classifier:
    """Fits a head, or what the schedule says, on images in an order of the seed."""
    L.seed_everything(seed)
    model = Classifier(network or Trunk(), 3, cache_features=cache, optimizer=lambda p: torch.optim.SGD(p, lr=lr))
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        callbacks=[ProgressiveUnfreezing(schedule=schedule)],
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(model, datamodule=CIFAR10(str(folder), **{"batch_size": 9, "split_seed": seed, **data}))
    return model


def assert_same_weights(model: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, others[name]), name


@pytest.fixture
def alone(image_folder: Path, tmp_path: Path) -> Iterator[Any]:
    """Runs with a cache of its own."""

    def fit(**arguments: Any) -> Classifier:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CACHE_VARIABLE, str(tmp_path / "alone"))
            return run(image_folder, **arguments)

    return fit


def test_run_that_takes_features_of_others_ends_with_the_weights_of_a_run_alone(image_folder: Path, alone: Any) -> None:
    expected = alone(seed=1)
    others = run(image_folder, seed=0, batch_size=16, lr=0.3)
    after = run(image_folder, seed=1)
    assert others.shared_features
    assert others.shared_features["taken"] == 0
    assert after.shared_features
    assert after.shared_features["taken"] > after.shared_features["computed"]
    assert_same_weights(after, expected)


def test_features_of_equal_runs_are_computed_once(image_folder: Path) -> None:
    first, second = (run(image_folder).network.computed for _ in range(2))
    assert first - second == 90 - 1  # type: ignore[operator]  # one example of the entry is computed again
    assert second < 40  # type: ignore[operator]  # checks of the cut


def test_larger_training_set_computes_its_new_examples_alone(image_folder: Path) -> None:
    small = run(image_folder, train_fraction=0.4).shared_features
    large = run(image_folder).shared_features
    assert small
    assert large
    of_entries = 2  # an example of each is computed again
    assert small["computed"] + large["computed"] == 90 + of_entries
    assert large["taken"] == small["computed"]
    assert large["saved_seconds"] > 0


def test_shared_features_train_the_weights_of_those_that_are_not(image_folder: Path) -> None:
    shared, kept, none = (run(image_folder, cache=cache).state_dict() for cache in ("shared", True, False))
    for name, tensor in shared.items():
        torch.testing.assert_close(tensor, kept[name], msg=name)
        torch.testing.assert_close(tensor, none[name], msg=name)


def with_silent_channel(bias: float) -> Trunk:
    """The ReLU hides the bias: no feature has it."""
    network = Trunk()
    with torch.no_grad():
        network.body[0].bias[0] = bias  # type: ignore[index]
    return network


def test_features_of_other_weights_are_not_taken_even_where_they_are_equal(image_folder: Path) -> None:
    run(image_folder, network=with_silent_channel(-100.0))
    other = run(image_folder, network=with_silent_channel(-100.5)).shared_features
    assert other
    assert other["taken"] == 0


def test_features_of_other_code_are_not_taken(image_folder: Path, alone: Any) -> None:
    run(image_folder)
    other = run(image_folder, network=Trunk(factor=2.0))
    again = run(image_folder, network=Trunk(factor=2.0))
    assert other.shared_features
    assert other.shared_features["taken"] == 0
    assert again.shared_features
    assert again.shared_features["taken"] == 90
    assert_same_weights(again, alone(network=Trunk(factor=2.0)))


def test_features_of_other_preparation_are_not_taken(image_folder: Path) -> None:
    run(image_folder)
    other = run(image_folder, mean=(0.4, 0.5, 0.5), std=(0.2, 0.2, 0.2)).shared_features
    assert other
    assert other["taken"] == 0


@pytest.mark.parametrize("file", ["features.npy", "digests.npy", "manifest.json"])
def test_damaged_entry_is_computed_again(file: str, image_folder: Path, own_cache: Path, alone: Any) -> None:
    run(image_folder)
    for path in (own_cache / "features").rglob(file):
        content = bytearray(path.read_bytes())
        content[-1] ^= 0xFF
        path.write_bytes(content)
    after = run(image_folder)
    assert after.shared_features
    assert after.shared_features["taken"] == 0
    assert_same_weights(after, alone())


def test_phase_with_more_than_a_head_shares_what_is_below(image_folder: Path, alone: Any) -> None:
    expected = alone(schedule="gradual")
    run(image_folder, seed=3)  # the head alone: another cut
    run(image_folder, seed=2, schedule="gradual")
    after = run(image_folder, schedule="gradual")
    assert after.shared_features
    assert after.shared_features["taken"] > 100
    assert_same_weights(after, expected)


def test_run_with_nothing_frozen_trains_as_without(image_folder: Path) -> None:
    shared, plain = (run(image_folder, cache=cache, schedule="full") for cache in ("shared", False))
    assert_same_weights(shared, plain)
    assert shared.shared_features
    assert shared.shared_features["computed"] == 0


def test_run_adds_no_more_to_the_cache_than_may_lie_in_memory(image_folder: Path, own_cache: Path) -> None:
    run(image_folder, resident_gib=20 * 8 * 4 / 2**30)  # 20 examples of 8 numbers
    [*kept] = (own_cache / "features").rglob("digests.npy")
    assert sum(len(np.load(file)) for file in kept) == 20


def test_full_disk_is_one_line(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(image_folder, cache=True)  # decodes the images

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_transfer.data.cache.save", no_room)
    with pytest.raises(UserError, match=r"features/\w+ cannot be written: No space left on device; make room"):
        run(image_folder)


def test_texts_have_the_same_features_beside_whatever_other_texts() -> None:
    pytest.importorskip("transformers")
    network = transformer("bert", dropout=0.0).requires_grad_(False)
    network.head.requires_grad_(True)
    batch = texts()

    def logits_of(rows: list[int]) -> tuple[Tensor, FeatureCache]:
        cache = FeatureCache(network, network.__call__, CIFAR10("."), is_shared=True)
        part = TextBatch(*(tensor[rows] for tensor in batch))
        cache.rows, cache.lengths = part.indices, part.lengths
        logits = cache.logits_of(part.token_ids[:, : int(part.lengths.max())], part.lengths)
        cache.share()
        return logits, cache

    assert batch.lengths.tolist() == [9, 4, 7, 2]
    expected, cache = logits_of([0, 1, 2])
    assert (cache.sharing.computed, cache.sharing.taken) == (3, 0)
    torch.testing.assert_close(expected, network.eval()(*batch.inputs)[:3])
    logits, cache = logits_of([1, 3, 2])
    assert (cache.sharing.computed, cache.sharing.taken) == (1 + 1, 2)  # a new one, and one to compare
    assert torch.equal(logits[[2, 0]], expected[[2, 1]])


def test_test_after_a_fit_takes_the_features_of_others_too(image_folder: Path) -> None:
    found, computed = [], []
    for cache in (False, "shared", "shared"):
        model = run(image_folder, cache=cache)
        before = model.network.computed
        [metrics] = model.trainer.test(model, datamodule=model.trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
        found.append(metrics)
        computed.append(model.network.computed - before)  # type: ignore[operator]
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert "forward" not in vars(model)
    images = computed[0]
    assert computed[1] > images
    assert computed[2] < 12, "the checks of the cut, and one example of the entry"
    assert found[2] == found[1] == pytest.approx(found[0], rel=1e-5)
    assert model.shared_features
    assert model.shared_features["taken"] == 90 + images


def test_test_of_other_data_after_a_fit_computes_all(image_folder: Path) -> None:
    model, plain = run(image_folder), run(image_folder, cache=False)
    images = TensorDataset(torch.randn(8, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    augmented = CIFAR10(str(image_folder), batch_size=9, split_seed=0, augmentation={"horizontal_flip": True})
    for given in ({"dataloaders": DataLoader(images, 4)}, {"datamodule": augmented}):
        [metrics] = L.Trainer(**QUIET).test(model, verbose=False, **given)  # type: ignore[arg-type]
        [expected] = L.Trainer(**QUIET).test(plain, verbose=False, **given)  # type: ignore[arg-type]
        assert metrics == pytest.approx(expected, rel=1e-5)


def test_test_of_merged_adapters_computes_all(image_folder: Path) -> None:
    pytest.importorskip("peft")
    L.seed_everything(0)
    model = Classifier(Trunk(), 3, cache_features="shared", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    callbacks = [LowRankAdaptation(rank=2, alpha=4), ProgressiveUnfreezing(schedule="linear_probe")]
    trainer = L.Trainer(max_epochs=1, callbacks=callbacks, enable_checkpointing=False, **QUIET)  # type: ignore[arg-type]
    trainer.fit(model, datamodule=CIFAR10(str(image_folder), batch_size=9))
    [metrics] = trainer.test(model, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    model.frozen_in_fit = []  # type: ignore[assignment]
    [expected] = trainer.test(model, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    assert metrics == expected


def test_test_by_weights_that_trained_shares_nothing(image_folder: Path) -> None:
    model = run(image_folder, schedule="full")
    taken = model.shared_features
    model.trainer.test(model, datamodule=model.trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    assert model.shared_features == taken
