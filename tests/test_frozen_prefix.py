"""A phase that trains the upper layer groups reads what the frozen ones below computed once: the same training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from backbones import QUIET, TIMM, TRANSFORMERS, images as large_images, texts, timm_network, transformer
from launching import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import (
    CIFAR10,
    Classifier,
    DemoTexts,
    FastCNN,
    LSTMClassifier,
    ProgressiveUnfreezing,
    SeedCNN,
    TimmNetwork,
    TorchvisionNetwork,
)
from lightning_transfer.data.batches import ImageBatch, TextBatch
from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.errors import UserError
from lightning_transfer.modules.feature_cache import FeatureCache
from lightning_transfer.modules.feature_table import FeatureTable
from lightning_transfer.networks.layer_groups import resolve_layer_groups


class Rows:
    """Stands for a data module whose examples are always the same."""

    is_augmented = False


def lstm(**arguments: Any) -> LSTMClassifier:
    return LSTMClassifier(60, 3, **{"embedding_size": 6, "hidden_size": 5, "num_layers": 3, **arguments})


def some_images(rows: int = 4) -> ImageBatch:
    return ImageBatch(torch.randn(rows, 3, 32, 32), torch.arange(rows) % 3, torch.arange(rows))


def part_of(batch: Any, rows: slice) -> Any:
    """Takes examples of a batch; texts with no more padding than they need."""
    if isinstance(batch, TextBatch):
        batch = batch._replace(token_ids=batch.token_ids[:, : int(batch.lengths[rows].max())])
    return type(batch)(*(tensor[rows] for tensor in batch))


def train_from(network: nn.Module, place: int) -> None:
    """Freezes the layer groups below a place, with their norm layers."""
    network.requires_grad_(False).train()
    groups = [*resolve_layer_groups(network, network.layer_groups).values()]  # type: ignore[arg-type]
    for group in groups[place:]:
        for parameter in group.parameters.values():
            parameter.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def logits_of(cache: FeatureCache, batch: Any) -> Tensor:
    cache.rows, cache.lengths = batch.indices, getattr(batch, "lengths", None)
    return cache.logits_of(*batch.inputs)


SWIN = "swin_tiny_patch4_window7_224"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    **{name: (lambda name=name: transformer(name, dropout=0.0), texts) for name in TRANSFORMERS},  # type: ignore[misc]
    **{name: (lambda name=name: timm_network(name), large_images) for name in TIMM},  # type: ignore[misc]
    SWIN: (lambda: timm_network(SWIN, drop_path_rate=0.0), large_images),
    "SeedCNN": (lambda: SeedCNN(3), some_images),
    "FastCNN": (lambda: FastCNN(3, (4, 8, 8)), some_images),
    "resnet18": (lambda: TorchvisionNetwork(3, "resnet18"), some_images),
    "densenet121": (lambda: TorchvisionNetwork(3, "densenet121"), some_images),
    "vit": (lambda: TorchvisionNetwork(3, "vit_b_16", model_arguments={"image_size": 32}), some_images),
    "LSTM": (lstm, texts),
    "LSTM in both directions": (lambda: lstm(bidirectional=True, pooling="all"), texts),
    "LSTM backward": (lambda: lstm(direction="backward"), texts),
}


# Cuts that two tensors pass: here the patches and the class token, both from the stage below.
PASSED_BY_TWO = [("pit_ti_224", "stage3")]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_cut_between_all_layer_groups_where_one_tensor_passes(name: str) -> None:
    build, make = NETWORKS[name]
    torch.manual_seed(0)
    network, batch = build(), make()
    for place, group in enumerate(network.layer_groups):  # type: ignore[arg-type]
        if not place or (name, group) in PASSED_BY_TWO:
            continue
        train_from(network, place)
        cache = FeatureCache(network, network.forward, Rows())
        for rows in (slice(1, 3), slice(0, 4), slice(1, 4)):  # unknown, partly known and known
            some = part_of(batch, rows)
            with torch.no_grad():
                torch.testing.assert_close(logits_of(cache, some), network(*some.inputs), msg=f"{place} {rows}")
        assert len(cache._table) == 4


@pytest.mark.parametrize(("name", "group"), PASSED_BY_TWO)
def test_cut_that_two_tensors_pass_is_refused_in_one_line(name: str, group: str) -> None:
    build, make = NETWORKS[name]
    network = build()
    train_from(network, [*network.layer_groups].index(group))  # type: ignore[misc]
    reason = f"before {group}, as what follows needs more than the first tensor that it is given: leave it off"
    with pytest.raises(UserError, match=reason) as refused:
        logits_of(FeatureCache(network, network.forward, Rows()), make())
    assert "\n" not in str(refused.value)


def test_drop_path_below_the_cut_is_refused() -> None:
    network = timm_network(SWIN)  # timm's own rate is 0.1 in the last block, and 0 in the first
    train_from(network, 3)
    with pytest.raises(UserError, match="set the dropout and drop path below stage3 to 0"):
        logits_of(FeatureCache(network, network.forward, Rows()), large_images())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_whole_network(checkpointing: bool) -> None:
    network = transformer("bert", dropout=0.0, gradient_checkpointing=checkpointing)
    train_from(network, 2)
    cache = FeatureCache(network, network.forward, Rows())
    batch = texts()
    found = []
    for compute in (lambda: logits_of(cache, batch), lambda: logits_of(cache, batch), lambda: network(*batch.inputs)):
        network.zero_grad()
        F.cross_entropy(compute(), batch.labels).backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    for name, gradient in found[2].items():
        torch.testing.assert_close(found[0][name], gradient, msg=name)
        torch.testing.assert_close(found[1][name], gradient, msg=name)


class Skipping(nn.Module):
    """A network in which a second way leads past a layer group."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.layer_groups = ["first", "second", "head"]

    def forward(self, images: Tensor) -> Tensor:
        below = self.first(images[..., :4, :4].flatten(1)).relu()
        return self.head(self.second(below).relu() + below)


class Functional(Skipping):
    """A network that uses the weights of a trained layer without calling it."""

    def forward(self, images: Tensor) -> Tensor:
        below = self.first(images[..., :4, :4].flatten(1)).relu()
        return self.head(F.linear(below, self.second.weight))


class Mixing(Skipping):
    """A network whose features belong to no example."""

    def forward(self, images: Tensor) -> Tensor:
        below = self.first(images[..., :4, :4].flatten(1)).mean(0)
        return self.head(self.second(below).expand(len(images), 8))


class Outlying(nn.Module):
    """A network with random features, of which one is ten thousand times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Dropout(0.1))
        self.head = nn.Linear(3 * 32 * 32, 3)
        self.layer_groups = ["body", "head"]

    def forward(self, images: Tensor) -> Tensor:
        below = self.body(images)
        return self.head(torch.cat([torch.full_like(below[:, :1], 2e4), below[:, 1:]], 1))


class InTraining(Skipping):
    """A network in which the second way is there in training alone."""

    def forward(self, images: Tensor) -> Tensor:
        below = self.first(images[..., :4, :4].flatten(1)).relu()
        return self.head(self.second(below.clone()) + (below if self.training else 0))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Functional, "it is given what trained weights take part in"),
        (Mixing, r"it is given \[8\] for inputs of \[2, 3, 32, 32\]"),
        (InTraining, "in training what follows needs more than the first tensor that it is given"),
    ],
)
def test_network_that_cannot_be_cut_is_refused_in_one_line(network: type[nn.Module], reason: str) -> None:
    built = network()
    train_from(built, 1)
    with pytest.raises(UserError, match=f"cannot cut {network.__name__} before (second|head), as {reason}") as refused:
        logits_of(FeatureCache(built, built.forward, Rows()), some_images())
    assert "\n" not in str(refused.value)


def test_random_features_are_refused_beside_a_very_large_one() -> None:
    network = Outlying()
    train_from(network, 1)
    with pytest.raises(UserError, match="needs the same features in training as in evaluation"):
        logits_of(FeatureCache(network, network.forward, Rows()), some_images())


def test_second_way_past_the_cut_is_carried_or_refused() -> None:
    network, batch = Skipping(), some_images()
    train_from(network, 1)
    cache = FeatureCache(network, network.forward, Rows())
    # What goes the second way is the very tensor that goes the first.
    for _ in range(2):
        torch.testing.assert_close(logits_of(cache, batch), network(batch.images))


# ---- whole fits -----------------------------------------------------------------------------------------------------


def image_data(folder: Path) -> CIFAR10:
    return CIFAR10(str(folder), batch_size=9, eval_batch_size=9, validation_fraction=0.2)


def text_data(_: Path | None = None) -> DemoTexts:
    return DemoTexts("target", max_vocabulary_size=60, max_tokens=20, batch_size=40)


def fit(
    network: nn.Module, data: L.LightningDataModule, cache: bool, *callbacks: L.Callback, epochs: int = 4, **ckpt: Any
) -> tuple[Classifier, L.Trainer]:
    """Thaws a layer group every second epoch."""
    classes = 2 if isinstance(data, DemoTexts) else 3
    model = Classifier(network, classes, cache_features=cache)
    unfreezing = ProgressiveUnfreezing(until={"epochs": 2})
    arguments = QUIET if callbacks else {**QUIET, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=epochs, callbacks=[unfreezing, *callbacks], **arguments)
    trainer.fit(model, datamodule=data, **ckpt)
    return model, trainer


FITS: dict[str, tuple[Callable[[], nn.Module], Callable[[Path], L.LightningDataModule]]] = {
    "SeedCNN": (lambda: SeedCNN(3), image_data),
    "resnet18": (lambda: TorchvisionNetwork(3, "resnet18"), image_data),
    "timm": (lambda: TimmNetwork(3, "test_resnet"), image_data),
    "LSTM": (lambda: LSTMClassifier(60, 2, embedding_size=6, hidden_size=5, num_layers=2), text_data),
    "BERT": (lambda: transformer("bert", num_classes=2, dropout=0.0), text_data),
}


@pytest.mark.parametrize("name", FITS)
def test_gradual_unfreezing_with_kept_features_trains_the_same_weights(name: str, image_folder: Path) -> None:
    build, make = FITS[name]
    ends = []
    for cache in (False, True):
        torch.manual_seed(0)
        model, trainer = fit(build(), make(image_folder), cache)
        ends.append((model.state_dict(), trainer.callback_metrics["val/accuracy"]))
    (without, accuracy), (cached, cached_accuracy) = ends
    assert accuracy == cached_accuracy
    for key, tensor in without.items():
        torch.testing.assert_close(cached[key], tensor, msg=key)


def test_frozen_layers_compute_each_example_once_in_a_phase(image_folder: Path) -> None:
    network = SeedCNN(3)
    seen = dict.fromkeys(network.layer_groups, 0)
    for name, module in network.named_children():

        def forward(given: Tensor, name: str = name, compute: Any = module.forward) -> Tensor:
            seen[name] += len(given)
            return compute(given)

        module.forward = forward
    fit(network, image_data(image_folder), cache=True)
    checks = 2 * (3 * 2 + 1)  # by two examples of training and of validation
    assert seen["convolution1"] == 2 * (90 + checks)  # a time in each of two phases
    assert seen["hidden2"] >= 90 + 2 * 90  # trained in the second phase
    assert seen["head"] >= 4 * 90


def test_known_texts_pass_the_frozen_layers_again_only_in_the_first_batch_of_a_shape() -> None:
    network, batch = transformer("bert", dropout=0.0), texts()
    train_from(network, 2)
    cache = FeatureCache(network, network.forward, Rows())
    logits_of(cache, batch)
    calls: list[int] = []
    frozen = network.get_submodule(network.layer_groups["layer.0"][0])
    next(frozen.children()).register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for rows in (slice(0, 4), slice(1, 4), slice(1, 4), slice(0, 4)):
        logits_of(cache, part_of(batch, rows))
        found.append(len(calls))
    assert found == [0, 1, 1, 1]


def test_fit_goes_on_where_nothing_is_frozen_any_more(image_folder: Path) -> None:
    ends = []
    for cache in (False, True):
        torch.manual_seed(0)
        model, _ = fit(SeedCNN(3), image_data(image_folder), cache, epochs=10)  # the fifth phase trains all
        ends.append(model.state_dict())
    torch.manual_seed(0)
    assert not torch.equal(ends[1]["network.convolution1.weight"], SeedCNN(3).convolution1.weight)
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, msg=key)


@pytest.mark.parametrize(("name", "cache"), [("SeedCNN", True), ("SeedCNN", "shared"), ("BERT", True)])
def test_fit_resumed_in_mid_epoch_ends_with_the_same_weights(
    name: str, cache: Any, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, make = FITS[name]
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    keep = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=1)
    torch.manual_seed(0)
    whole, trainer = fit(build(), make(image_folder), cache, keep)
    steps = trainer.global_step
    ends = []
    for step in (steps * 5 // 8, steps * 7 // 8):  # in the third epoch and the last one
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / f"cache{step}"))  # nothing is left to take
        resumed, _ = fit(build(), make(image_folder), cache, ckpt_path=tmp_path / f"step={step}.ckpt")
        ends.append(resumed.state_dict())
    for end in ends:
        for key, tensor in whole.state_dict().items():
            if cache == "shared":  # computed alone, they do not depend on their batch
                assert torch.equal(end[key], tensor), key
            torch.testing.assert_close(end[key], tensor, msg=key)


def test_features_beyond_the_memory_are_computed_each_time(image_folder: Path) -> None:
    def small(_: Path) -> CIFAR10:
        data = image_data(image_folder)
        data.resident_gib = 20 * 84 * 4 / 2**30  # twenty images in front of the head, four in front of hidden2
        return data

    ends = []
    torch.manual_seed(0)
    ends.append(fit(SeedCNN(3), image_data(image_folder), False)[0].state_dict())
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="has room for the features of 20 examples before head; those of others are"):
        ends.append(fit(SeedCNN(3), small(image_folder), True)[0].state_dict())
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, msg=key)


@pytest.mark.slow
def test_two_processes_train_as_without_kept_features(tmp_path: Path) -> None:
    ranks = run_ranks("frozen_prefix_ranks.py", tmp_path)
    for cache in (True, "shared"):
        for rank in ranks:
            assert rank["computed"][cache] < rank["computed"][False]
        for key, tensor in ranks[0]["weights"][False].items():
            torch.testing.assert_close(ranks[0]["weights"][cache][key], tensor, msg=key)
            assert torch.equal(ranks[0]["weights"][cache][key], ranks[1]["weights"][cache][key]), key


# ---- the table ------------------------------------------------------------------------------------------------------


def test_table_keeps_texts_by_their_length_and_pads_them_with_zeros() -> None:
    table = FeatureTable(2**20)
    features = torch.arange(1.0, 25).reshape(2, 4, 3)
    table.store(torch.tensor([7, 2]), features, torch.tensor([2, 4]))
    table.store(torch.tensor([2, 0, 0]), -torch.ones(3, 1, 3), torch.tensor([1, 1, 1]))  # 2 is known, 0 comes twice
    assert table.knows(torch.tensor([0, 1, 2, 7, 100])).tolist() == [True, False, True, True, False]
    assert len(table) == 3
    assert table._used == 2 + 4 + 1
    taken = table.take(torch.tensor([2, 7, 0]), 5)
    expected = torch.zeros(3, 5, 3)
    expected[0, :4], expected[1, :2], expected[2, :1] = features[1], features[0, :2], -1
    assert torch.equal(taken, expected)


def test_table_never_exceeds_its_memory() -> None:
    table = FeatureTable(10 * 3 * 4 + 5)  # ten steps and a bit
    for row in range(8):
        table.store(torch.tensor([row]), torch.full((1, 3, 3), float(row)), torch.tensor([3]))
    assert table.is_full
    assert len(table) == 3
    assert table._steps is not None
    assert table._steps.nbytes <= 10 * 3 * 4
    assert torch.equal(table.take(torch.tensor([2]), 3), torch.full((1, 3, 3), 2.0))
