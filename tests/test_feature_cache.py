"""Cached features of a linear probe: the same training at the head's cost, and refused where it would be wrong."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from backbones import QUIET, transformer
from torch import Tensor, nn

from lightning_transfer import (
    CIFAR10,
    Classifier,
    DemoTexts,
    DemoTextStreams,
    ExponentialMovingAverage,
    FastCNN,
    LearningWithoutForgetting,
    ProgressiveUnfreezing,
    SeedCNN,
    SpectralShrinkage,
)
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError
from lightning_transfer.modules.feature_cache import FeatureCache
from lightning_transfer.transfer.feature_penalty import FeaturePenalty

EPOCHS = 3


class CountingConvolution(nn.Conv2d):
    images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().forward(images)


class Counting(SeedCNN):
    """Counts the images that pass its first layer."""

    def __init__(self) -> None:
        super().__init__(3)
        self.convolution1 = CountingConvolution(3, 6, 5)

    @property
    def images(self) -> int:
        return self.convolution1.images


class NormAndDropout(nn.Module):
    """A network whose features depend on the mode."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(4 * 15 * 15, 3)
        self.layer_groups = {"body": ["body"], "head": ["head"]}

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def probe(
    network: nn.Module, data: L.LightningDataModule, cache: bool = True, schedule: str = "linear_probe", sanity: int = 0
) -> tuple[Classifier, L.Trainer]:
    torch.manual_seed(0)
    model = Classifier(network, 3, cache_features=cache)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    unfreezing = ProgressiveUnfreezing(schedule=schedule)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        num_sanity_val_steps=sanity,
        enable_checkpointing=False,
        callbacks=[unfreezing],
        **quiet,
    )
    trainer.fit(model, datamodule=data)
    return model, trainer


@pytest.mark.parametrize("shared", [True, "shared"])
def test_average_of_a_layer_that_froze_again_is_validated_by_its_own_features(shared: Any, image_folder: Path) -> None:
    found: dict[Any, list[float]] = {}

    class Losses(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            found[cache].append(float(trainer.callback_metrics["val/loss"]))

    for cache in (False, shared):
        torch.manual_seed(0)
        found[cache] = []
        model = Classifier(SeedCNN(3), 3, cache_features=cache, optimizer=partial(torch.optim.SGD, lr=0.1))
        chain = ProgressiveUnfreezing(schedule="chain", until={"epochs": 2})
        steps = [ExponentialMovingAverage(0.9), chain, Losses()]
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        L.Trainer(accelerator="cpu", max_epochs=10, num_sanity_val_steps=0, enable_checkpointing=False,
                  callbacks=steps, **quiet).fit(model, datamodule=images(image_folder))  # fmt: skip
    assert found[shared] == pytest.approx(found[False], rel=1e-5)
    assert len({*found[False]}) == 10


def logits_of(cache: FeatureCache, batch: ImageBatch) -> Tensor:
    cache.rows = batch.indices
    return cache.logits_of(*batch.inputs)


def images(folder: Path, **arguments: object) -> CIFAR10:
    return CIFAR10(str(folder), **{"batch_size": 9, "eval_batch_size": 5, "validation_fraction": 0.2, **arguments})


@pytest.mark.parametrize(
    "make", [Counting, NormAndDropout, lambda: FastCNN(3, (4, 8, 8))], ids=["seed", "norm", "fast"]
)
def test_probe_with_cached_features_trains_the_same_weights_to_the_same_accuracy(
    make: Callable[[], nn.Module], image_folder: Path
) -> None:
    results = []
    for cache in (False, True):
        torch.manual_seed(0)
        model, trainer = probe(make(), images(image_folder), cache)
        results.append((model.state_dict(), trainer.callback_metrics["val/accuracy"]))
    (without, accuracy), (cached, cached_accuracy) = results
    assert accuracy == cached_accuracy
    for name, tensor in without.items():
        torch.testing.assert_close(cached[name], tensor, msg=name)


@pytest.mark.parametrize(("penalty", "strength"), [(LearningWithoutForgetting, 3.0), (SpectralShrinkage, 0.1)])
def test_penalty_on_features_is_that_of_the_whole_batch_where_some_are_cached(
    penalty: Callable[..., FeaturePenalty], strength: float, image_folder: Path
) -> None:
    """Layers are thawed within an epoch: a part of the next batches is known, and a part is not."""
    data = images(image_folder)
    data.prepare_data()
    data.setup("fit")
    steps = len(data.train_dataloader())
    ends = []
    for is_on, cache in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        model = Classifier(SeedCNN(3), 3, cache_features=cache)
        unfreezing = ProgressiveUnfreezing(until={"steps": steps + 1})
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        trainer = L.Trainer(
            accelerator="cpu",
            precision="64-true",
            max_epochs=6,
            num_sanity_val_steps=0,
            callbacks=[unfreezing, penalty(strength * is_on)],
            **quiet,
        )
        trainer.fit(model, datamodule=images(image_folder))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert (ends[0] - ends[1]).abs().max() > 5e-4
    torch.testing.assert_close(ends[2], ends[1], rtol=1e-6, atol=1e-8)


def test_network_that_was_compiled_before_may_be_cached(image_folder: Path) -> None:
    network, data = SeedCNN(3).requires_grad_(False), images(image_folder)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    expected = network(batch.images)
    network.compile(backend="eager")
    network(batch.images)  # what is compiled now does not see a later hook
    torch.testing.assert_close(logits_of(FeatureCache(network, network.__call__, data), batch), expected)


def test_every_example_passes_the_network_once(image_folder: Path) -> None:
    network = Counting()
    probe(network, images(image_folder))
    without = Counting()
    probe(without, images(image_folder), cache=False)
    checks = 2 * (3 * 2 + 1)  # by two images of training and of validation
    assert without.images - network.images == (EPOCHS - 1) * 90 - checks


def test_test_split_is_not_taken_for_the_training_split(image_folder: Path) -> None:
    model, trainer = probe(Counting(), images(image_folder))
    [cached] = trainer.test(model, datamodule=images(image_folder), verbose=False)
    model.cache_features = False
    [without] = trainer.test(model, datamodule=images(image_folder), verbose=False)
    assert cached == without


def test_fit_that_failed_leaves_no_features_to_other_stages(image_folder: Path) -> None:
    class Failing(L.Callback):
        def on_train_epoch_end(self, *_: object) -> None:
            raise RuntimeError("failed")

    torch.manual_seed(0)
    model, data = Classifier(Counting(), 3, cache_features=True), images(image_folder)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    callbacks = [ProgressiveUnfreezing(schedule="linear_probe"), Failing()]
    trainer = L.Trainer(max_epochs=1, callbacks=callbacks, enable_model_summary=False, **quiet)
    with pytest.raises(RuntimeError, match="failed"):
        trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    model.cache_features = False
    [expected] = trainer.test(model, datamodule=data, verbose=False)
    assert after == expected


def test_features_are_computed_anew_where_a_weight_below_the_head_changes(image_folder: Path) -> None:
    network = Counting().requires_grad_(False)
    data = images(image_folder)
    cache = FeatureCache(network, network.forward, data)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    before = logits_of(cache, batch)
    torch.testing.assert_close(before, network(batch.images))
    with torch.no_grad():
        network.convolution1.weight.mul_(2)
    after = logits_of(cache, batch)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, network(batch.images))


def test_fit_that_freezes_nothing_at_first_is_refused(image_folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"but convolution1.\w+ is trained, and nothing below it is frozen: add configs"
    ):
        probe(SeedCNN(3), images(image_folder), schedule="full")


def test_augmented_images_are_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"take data.augmentation and data.mixing away"):
        probe(SeedCNN(3), images(image_folder, augmentation=Augmentation(horizontal_flip=True)))


def test_data_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match="the examples of DemoTextStreams are not known by their rows"):
        probe(SeedCNN(3), DemoTextStreams())


@pytest.mark.parametrize("sanity", [0, 2])  # with a validation before the first step, or without
def test_dropout_below_the_head_is_refused(sanity: int, image_folder: Path) -> None:
    with pytest.raises(UserError, match="set the dropout and drop path below head to 0 and freeze the norm layers"):
        probe(NormAndDropout(dropout=0.5), images(image_folder), sanity=sanity)


def test_further_views_in_evaluation_pass_the_network(image_folder: Path) -> None:
    losses = []
    for cache in (False, True):
        torch.manual_seed(0)
        _, trainer = probe(FastCNN(3, (4, 8, 8), test_views="mirror"), images(image_folder), cache)
        losses.append(trainer.callback_metrics["val/loss"])
    torch.testing.assert_close(*losses)


def test_network_without_layer_groups_is_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match="a network with layer_groups, which Sequential does not have"):
        FeatureCache(nn.Sequential(nn.Linear(2, 2)), lambda: torch.zeros(()), images(image_folder))


def test_only_unseen_rows_of_a_batch_pass_the_network(image_folder: Path) -> None:
    network, data = Counting().requires_grad_(False), images(image_folder)
    data.setup("fit")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    cache = FeatureCache(network, network.forward, data)
    logits_of(cache, batches[0])
    mixed = ImageBatch(*(torch.cat([a[:3], b[3:]]) for a, b in zip(*batches[:2], strict=True)))
    expected = network(mixed.images)
    seen = network.images
    torch.testing.assert_close(logits_of(cache, mixed), expected)
    assert network.images - seen == len(mixed.images) - 3


def test_processes_share_what_each_has_computed(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, data = Counting().requires_grad_(False), images(image_folder)
    data.setup("fit")
    own, other = (data.on_after_batch_transfer(batch, 0) for batch in [*data.train_dataloader()][:2])
    alone = FeatureCache(network, network.forward, data)
    logits_of(alone, other)
    features = alone._table.take(other.indices, 1)

    def gather(found: list[object], mine: tuple[Tensor, Tensor, Tensor]) -> None:
        found[:] = [mine, (other.indices, features, torch.ones_like(other.indices))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    cache = FeatureCache(network, network.forward, data, processes=2)
    cache.is_training = True
    logits_of(cache, own)
    expected = network(other.images)
    seen = network.images
    torch.testing.assert_close(logits_of(cache, other), expected)
    assert network.images == seen


def test_module_computes_other_inputs_than_those_of_a_batch_by_its_network(image_folder: Path) -> None:
    differences = []

    class Looks(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, module: Classifier) -> None:  # type: ignore[override]
            some = torch.randn(2, 3, 32, 32)
            with torch.no_grad():
                differences.append((module(some) - module.network(some)).abs().max().item())

    model, data = Classifier(SeedCNN(3), 3, cache_features=True), images(image_folder)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    callbacks = [ProgressiveUnfreezing(schedule="linear_probe"), Looks()]
    L.Trainer(max_epochs=1, callbacks=callbacks, enable_model_summary=False, **quiet).fit(model, datamodule=data)
    assert differences
    assert not any(differences)


def test_linear_probe_of_a_transformer_reads_each_document_once_and_ends_with_the_same_weights() -> None:
    transformers = pytest.importorskip("transformers")
    assert transformers
    ends, read = [], []
    for cache in (False, True):
        data = DemoTexts("target", max_vocabulary_size=60, max_tokens=20, batch_size=30)
        network = transformer("bert", num_classes=2, dropout=0.0)
        seen: list[int] = []
        network.model.register_forward_pre_hook(
            lambda _, arguments, keywords, seen=seen: seen.append(len(keywords["input_ids"])),  # type: ignore[misc]
            with_kwargs=True,
        )
        torch.manual_seed(0)
        model = Classifier(network, 2, cache_features=cache)
        callbacks = [ProgressiveUnfreezing(schedule="linear_probe")]
        trainer = L.Trainer(max_epochs=EPOCHS, callbacks=callbacks, enable_checkpointing=False, **QUIET)
        trainer.fit(model, datamodule=data)
        ends.append(model.network.head.weight)
        facts = data.facts
        read.append(sum(seen) / (facts["train_examples"] + facts["validation_examples"]))
    torch.testing.assert_close(ends[0], ends[1])
    assert read[0] > 2.5
    assert read[1] < 1.5  # the checks of both modes read two batches again


def test_dropout_below_the_head_of_a_transformer_is_refused() -> None:
    pytest.importorskip("transformers")
    model = Classifier(transformer("bert", num_classes=2), 2, cache_features=True)
    trainer = L.Trainer(max_epochs=1, callbacks=[ProgressiveUnfreezing(schedule="linear_probe")], **QUIET)
    with pytest.raises(
        UserError, match="the same features in training as in evaluation: set the dropout and drop path"
    ):
        trainer.fit(model, datamodule=DemoTexts("target", max_vocabulary_size=60, max_tokens=20))
