"""Private training of what is fine-tuned: heads on cached features, norm layers, adapters, and networks of texts."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from backbones import TRANSFORMERS, transformer
from private_toys import SmallNetwork, by_opacus, fit, private, weights
from test_private import loop_over_examples, texts
from torch import Tensor, nn

from lightning_transfer import DemoTexts, LowRankAdaptation, LSTMClassifier, PrivateClassifier, ProgressiveUnfreezing
from lightning_transfer.privacy import private_classifier
from lightning_transfer.privacy.per_example import PerExampleGradients

pytest.importorskip("opacus")


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_gradients_of_every_family_of_transformers_equal_a_loop(family: str) -> None:
    module = private(transformer(family, dropout=0.0).double()).train()
    given = texts()
    found, expected = PerExampleGradients(module)(given), loop_over_examples(module, given)
    for key, gradients in expected.items():
        assert (found[f"module.{key}"] - gradients).norm() / gradients.norm().clamp(min=1e-12) < 1e-6, key


class CountingConvolution(nn.Conv2d):
    images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().forward(images)


class Counting(SmallNetwork):
    """Counts the images that pass its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = CountingConvolution(3, 4, 3)


@pytest.fixture
def known_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and noise are the same in all runs, also where a sum differs in its last digit."""
    monkeypatch.setattr(private_classifier, "new_secret", lambda _: 1)
    monkeypatch.setattr(private_classifier, "noise_generator", lambda secret, step, *_: np.random.default_rng(step))


@pytest.mark.usefixtures("known_noise")
@pytest.mark.parametrize("schedule", ["linear_probe", "gradual"])
def test_cached_features_train_as_the_whole_network(schedule: Any, tmp_path: Path) -> None:
    found = []
    for cache in (False, True):
        torch.manual_seed(0)
        module = private(Counting(), cache_features=cache)
        unfreezing = ProgressiveUnfreezing(schedule=schedule, until={"steps": 8} if schedule == "gradual" else None)
        fit(tmp_path, module, callbacks=[unfreezing], max_epochs=4)
        found.append((weights(module), module.network.stem.images))
    (whole, _), (cached, images) = found
    for name, value in whole.items():
        torch.testing.assert_close(cached[name], value)
    if schedule == "linear_probe":
        assert images < 64 + 12 + 6 * 8  # each example once, and a few batches to check


def test_norm_and_bias_train_on_the_statistics_of_the_starting_weights(tmp_path: Path) -> None:
    module = private()
    before = weights(module)
    fit(tmp_path, module, callbacks=[ProgressiveUnfreezing(schedule="full", parameters=["norm", "bias"])])
    changed = {name for name, value in weights(module).items() if not value.equal(before[name])}
    expected = ("stem.bias", "norm.weight", "norm.bias", "head.weight", "head.bias")
    assert changed == {f"network.{name}" for name in expected}


def test_adapters_train_privately_and_the_rest_stays(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    module = private()
    before = weights(module)
    adapters = LowRankAdaptation(rank=2)
    unfreezing = ProgressiveUnfreezing(schedule="full", parameters=["*.lora_*"], thaw_frozen=True)
    fit(tmp_path, module, callbacks=[adapters, unfreezing])
    changed = {name for name, value in weights(module).items() if not value.equal(before[name])}
    assert changed == {f"network.{name}" for name in ("stem.weight", "head.weight", "head.bias")}
    assert module.privacy["epsilon"] == pytest.approx(by_opacus(16, 1.0, 0.125, 1e-5), abs=1e-9)


class OfLastLayer(nn.Linear):
    """A head that is given the last states of all layers of an RNN, [layers, batch, features]."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states[-1])


class Recurrent(nn.Module):
    layer_groups: ClassVar = {"stem": ["stem"], "head": ["head"]}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.GRU(48, 6, num_layers=2), OfLastLayer(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images.flatten(1).unsqueeze(0))[1])


@pytest.mark.usefixtures("known_noise")
def test_stored_features_may_have_the_examples_on_another_axis(tmp_path: Path) -> None:
    found = []
    for cache in (False, True):
        torch.manual_seed(0)
        module = private(Recurrent(), cache_features=cache)
        fit(tmp_path, module, callbacks=[ProgressiveUnfreezing(schedule="linear_probe")])
        found.append(weights(module))
    torch.testing.assert_close(found[1], found[0])


def test_network_in_which_nothing_trains_stays_as_it_is(tmp_path: Path) -> None:
    module = private(SmallNetwork().requires_grad_(False))
    before = weights(module)
    fit(tmp_path, module)
    torch.testing.assert_close(weights(module), before, rtol=0, atol=0)


def public_vocabulary(folder: Path) -> tuple[str, int]:
    """Writes the vocabulary of public texts, and gives its file and its size."""
    public = DemoTexts(task="source")
    public.setup("validate")
    file = folder / "tokenizer.json"
    file.write_text(public.tokenizer.to_str())
    return str(file), public.vocabulary_size


def test_head_on_stored_features_of_an_lstm_takes_the_examples_of_a_batch_together(tmp_path: Path) -> None:
    vocabulary, size = public_vocabulary(tmp_path)
    data = DemoTexts("target", private=True, batch_size=20, train_fraction=0.2, vocabulary_path=vocabulary)
    network = LSTMClassifier(size, 2, embedding_size=4, hidden_size=4)
    module = PrivateClassifier(network, 2, noise_multiplier=1.0, cache_features=True)
    calls = []
    network.head.register_forward_hook(lambda *_: calls.append(1))
    fit(tmp_path, module, data=data, max_epochs=8, callbacks=[ProgressiveUnfreezing(schedule="linear_probe")])
    assert len(calls) < data.facts["train_examples"]  # a loop has one for each example of each epoch


@pytest.mark.parametrize("network", ["lstm", "bert"])
def test_texts_in_a_given_vocabulary_train_privately_also_in_empty_batches(network: str, tmp_path: Path) -> None:
    vocabulary, size = public_vocabulary(tmp_path)
    data = DemoTexts("target", private=True, batch_size=1, train_fraction=0.2, vocabulary_path=vocabulary)
    chosen = (
        LSTMClassifier(size, 2, embedding_size=4, hidden_size=4, dropout=0.1)
        if network == "lstm"
        else transformer("bert", 2, model_arguments={"vocab_size": size, "max_position_embeddings": 400})
    )
    torch.manual_seed(0)
    module = PrivateClassifier(chosen, 2, noise_multiplier=1.0)
    before = weights(module)
    fit(tmp_path, module, data=data, max_epochs=1)
    assert module.privacy["steps"] == data.facts["train_examples"] > 20  # batches of one on average, and some of none
    assert all(not value.equal(before[name]) for name, value in module.named_parameters())
