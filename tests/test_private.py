"""Private training: gradients of single examples, their noise, the batches that are drawn, and the account."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from private_toys import EXAMPLES, SmallImages, SmallNetwork, by_opacus, fit, private, trainer, weights
from torch import Tensor, nn

from lightning_transfer import (
    Augmentation,
    FastCNN,
    LSTMClassifier,
    SeedCNN,
    TimmNetwork,
    TorchvisionNetwork,
    TransformersNetwork,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.private_examples import poisson_batches, taking_none
from lightning_transfer.errors import UserError
from lightning_transfer.privacy.accounting import Mechanism, calibrated
from lightning_transfer.privacy.per_example import PerExampleGradients
from lightning_transfer.privacy.secret import FILE
from lightning_transfer.report.model_card import model_card

pytest.importorskip("opacus")

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 16}
DISTILBERT = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 20}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 16}


def images(side: int) -> tuple[Tensor, ...]:
    return torch.randn(3, 3, side, side, dtype=torch.float64), torch.tensor([0, 2, 1])


def texts() -> tuple[Tensor, ...]:
    return torch.randint(1, 20, (3, 7)), torch.tensor([7, 3, 1]), torch.tensor([0, 2, 1])


def lstm(**more: Any) -> nn.Module:
    return LSTMClassifier(20, 3, embedding_size=4, hidden_size=5, num_layers=2, **more)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "SeedCNN": (lambda: SeedCNN(3), partial(images, 32)),
    "FastCNN": (lambda: FastCNN(3, (4, 4, 4), convolutions=3), partial(images, 12)),
    "LSTM": (lambda: lstm(pooling="all", bidirectional=True), texts),
    "LSTM backward": (lambda: lstm(direction="backward", gradient_tokens=4, pooling="mean"), texts),
    "LSTM with pairs": (lambda: lstm(bigrams=3), texts),
    "resnet18": (lambda: TorchvisionNetwork(3, "resnet18", small_images=True), partial(images, 16)),
    "mobilenet_v3_small": (lambda: TorchvisionNetwork(3, "mobilenet_v3_small", model_arguments={"dropout": 0.0}),
                           partial(images, 32)),
    "vit": (lambda: TimmNetwork(3, "test_vit"), partial(images, 160)),
    "timm": (lambda: TimmNetwork(3, "test_efficientnet"), partial(images, 32)),
    "bert": (lambda: TransformersNetwork(3, model_arguments=BERT, dropout=0.0, pooling="mean"), texts),
    "distilbert": (lambda: TransformersNetwork(3, model_arguments=DISTILBERT, dropout=0.0), texts),
    "gpt2": (lambda: TransformersNetwork(3, model_arguments=GPT2, dropout=0.0), texts),
}  # fmt: skip


def loop_over_examples(module: Any, examples: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The gradient of each example, in a backward pass of its own, with norm layers in evaluation mode."""
    for layer in module.modules():
        if hasattr(layer, "running_mean"):
            layer.eval()
    found: dict[str, list[Tensor]] = {name: [] for name, p in module.named_parameters() if p.requires_grad}
    for row in range(len(examples[0])):
        module.zero_grad()
        *inputs, labels = (tensor[row : row + 1] for tensor in examples)
        nn.functional.cross_entropy(module.network(*inputs), labels).backward()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                found[name].append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone())
    module.zero_grad()
    return {name: torch.stack(gradients) for name, gradients in found.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_examples_equal_a_loop_over_them(name: str) -> None:
    torch.manual_seed(0)
    network, examples = NETWORKS[name]
    module = private(network().double()).train()
    given = examples()
    before = weights(module)
    found = PerExampleGradients(module)(given)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    expected = loop_over_examples(module, given)
    assert {key.removeprefix("module.") for key in found} == set(expected)
    for key, gradients in expected.items():
        error = (found[f"module.{key}"] - gradients).norm() / gradients.norm().clamp(min=1e-12)
        assert error < 1e-6, key


def test_frozen_layers_have_no_part_in_gradients_and_norms() -> None:
    module = private(SmallNetwork().double())
    module.network.stem.requires_grad_(False)
    examples = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.arange(5) % 3
    total = PerExampleGradients(module).clipped_sum(examples, 1e-3, 2)
    assert not any(name.startswith("module.network.stem") for name in total)
    alone = PerExampleGradients(module)(examples)
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in alone.values()]).norm(dim=0)
    for name, gradient in alone.items():
        torch.testing.assert_close(total[name], torch.einsum("b,b...->...", 1e-3 / norms, gradient))


def test_each_example_adds_at_most_the_clip_norm_and_small_gradients_stay() -> None:
    module = private(SmallNetwork().double())
    gradients = PerExampleGradients(module)
    examples = torch.randn(4, 3, 4, 4, dtype=torch.float64), torch.arange(4) % 3
    for row in range(4):
        one = tuple(tensor[row : row + 1] for tensor in examples)
        norm = torch.cat([gradient.flatten() for gradient in gradients.clipped_sum(one, 0.05, 1).values()]).norm()
        torch.testing.assert_close(norm, torch.tensor(0.05, dtype=torch.float64))
    for name, total in gradients.clipped_sum(examples, 1e6, 3).items():
        torch.testing.assert_close(total, gradients(examples)[name].sum(0))


def test_example_without_a_finite_gradient_adds_nothing_and_an_empty_batch_neither() -> None:
    module = private()
    gradients = PerExampleGradients(module)
    images, labels = torch.randn(4, 3, 4, 4), torch.arange(4) % 3
    images[1] = float("inf")
    total = gradients.clipped_sum((images, labels), 1.0, 4)
    others = gradients.clipped_sum((images[[0, 2, 3]], labels[[0, 2, 3]]), 1.0, 4)
    for name in total:
        torch.testing.assert_close(total[name], others[name])
    assert all(value.eq(0).all() for value in gradients.clipped_sum((images[:0], labels[:0]), 1.0, 4).values())


class Counting(nn.Module):
    """Counts the examples that it has seen, which tells of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.head = nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.seen += images.mean()
        return self.head(images.flatten(1))


def test_layer_that_remembers_training_examples_is_refused_by_its_name() -> None:
    module = private(Counting())
    with pytest.raises(UserError, match=r"network changes its seen with training examples"):
        PerExampleGradients(module)((torch.randn(2, 3, 4, 4), torch.tensor([0, 1])))


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_poisson_samples_alike_on_any_number_of_ranks() -> None:
    rows = np.arange(100, 150)
    batches = poisson_batches(rows, batch_size=5, seed=3)
    drawn = [batch for epoch in range(400) for batch in batches(epoch)]
    assert len(drawn) == 4000  # ten in an epoch
    taken = np.zeros((len(drawn), 50))
    for number, batch in enumerate(drawn):
        assert len(set(batch.tolist())) == len(batch)
        taken[number, batch - 100] = 1
    # Each row by a chance of a tenth, on its own: within five standard errors.
    assert np.abs(taken.mean(0) - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 4000)
    together = np.cov(taken.T) - np.diag(taken.var(0, ddof=1))
    assert np.abs(together).max() < 5 * 0.09 / np.sqrt(4000)
    sizes = taken.sum(1)
    assert abs(sizes.var() / (50 * 0.09) - 1) < 5 * np.sqrt(2 / 4000)
    assert sizes.min() <= 1
    halves = [poisson_batches(rows, batch_size=5, seed=3, rank=rank, world_size=2)(7) for rank in range(2)]
    for whole, *shares in zip(batches(7), *halves, strict=True):
        assert sorted(np.concatenate(shares)) == sorted(whole)
        assert abs(len(shares[0]) - len(shares[1])) <= 1


def test_batch_of_no_rows_has_the_fields_of_any_other() -> None:
    data = SmallImages(batch_size=4)
    data.setup("validate")
    take = taking_none(data.batch_maker(data._split("train"), is_training=True))
    empty = take(np.empty(0, np.int64))
    assert [tuple(field.shape) for field in empty] == [(0, 3, 4, 4), (0,), (0,)]
    assert type(empty) is type(take(np.array([1])))


# ---- a training ------------------------------------------------------------------------------------------------------


def test_gradient_is_the_clipped_sum_and_noise_over_the_expected_batch(tmp_path: Path) -> None:
    module = private(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), noise_multiplier=50.0, clip_norm=2.0)
    found: list[Tensor] = []
    sums: list[Tensor] = []
    step, backward = module.training_step, module.backward

    def keep_sums(*arguments: Any) -> Tensor:
        loss = step(*arguments)
        sums.append(torch.cat([total.flatten() for total in module._sums.values()]))
        return loss

    def keep_gradients(*arguments: Any) -> None:
        backward(*arguments)
        found.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))

    module.training_step, module.backward = keep_sums, keep_gradients
    fit(tmp_path, module)
    noise = torch.stack(found) * 8 - torch.stack(sums)
    assert len(noise) == 16  # eight steps in each of two epochs
    assert 90 < noise.std() < 110  # 50 times 2
    assert noise.mean().abs() < 5 * 100 / noise.numel() ** 0.5
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 5 / 147**0.5  # another one in each step


def test_epsilon_is_that_of_the_accountant_for_the_steps_taken_and_norm_statistics_stay(tmp_path: Path) -> None:
    module = private()
    before = weights(module)
    fit(tmp_path, module)
    assert module.privacy is not None
    assert module.privacy["steps"] == 16
    assert module.privacy["epsilon"] == pytest.approx(by_opacus(16, 1.0, 8 / EXAMPLES, 1e-5), abs=1e-9)
    after = weights(module)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, _ in module.named_parameters()}


def test_target_sets_the_noise_and_is_kept(tmp_path: Path) -> None:
    module = fit(tmp_path, private(noise_multiplier=None, target_epsilon=4.0))
    assert module.privacy["steps"] == 16
    assert 3.9 < module.privacy["epsilon"] <= 4.0


def test_noise_that_hides_next_to_nothing_is_told_by_the_robust_accountant() -> None:
    from opacus.accountants import RDPAccountant

    loose = Mechanism(0.05, 0.1, 1e-5)
    accountant = RDPAccountant()
    accountant.history = [(0.05, 0.1, 100)]
    assert loose.accountant(100) == "rdp"
    assert loose.epsilon(100) == accountant.get_epsilon(delta=1e-5) > 50
    assert Mechanism(1.0, 0.1, 1e-5).accountant(100) == "prv"


def test_target_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.target_epsilon is 1e-08: expected more"):
        calibrated(1e-8, 0.1, 1e-5, 10)


def test_training_ends_before_a_step_that_would_exceed_the_target_and_its_weights_are_validated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validated: list[int] = []
    module = private(target_epsilon=4.5)
    module.on_validation_end = lambda: validated.append(module.trainer.global_step)
    with caplog.at_level("INFO"):
        fit(tmp_path, module, max_epochs=50)
    privacy = module.privacy
    assert 0 < privacy["steps"] < 400
    assert privacy["steps"] % 8  # it ends within an epoch
    assert module.trainer.global_step == privacy["steps"] == validated[-1]
    assert float(module.trainer.callback_metrics["privacy/epsilon"]) == pytest.approx(privacy["epsilon"])
    assert privacy["epsilon"] <= 4.5 < by_opacus(privacy["steps"] + 1, 1.0, 8 / EXAMPLES, 1e-5)
    assert f"private: epsilon {privacy['epsilon']:.2f} after {privacy['steps']} steps, which are all" in caplog.text
    assert f"the training ends after {privacy['steps']} steps, as another would exceed epsilon 4.5" in caplog.text


def test_training_that_ends_as_planned_says_nothing_of_an_early_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        module = fit(tmp_path, private(noise_multiplier=None, target_epsilon=4.5))
    assert f"epsilon {module.privacy['epsilon']:.2f} after all 16 steps" in caplog.text
    assert "the training ends" not in caplog.text


@pytest.mark.parametrize("augmentation", [None, Augmentation(crop_padding=1, horizontal_flip=True, cutout=2)])
def test_batches_without_examples_train_on(augmentation: Augmentation | None, tmp_path: Path) -> None:
    module = fit(tmp_path, data=SmallImages(batch_size=1, augmentation=augmentation), max_epochs=1)
    assert module.privacy["steps"] == EXAMPLES


def test_secret_is_another_one_in_each_run_and_only_in_its_own_file(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        module = private()
        runner = trainer(tmp_path)
        runner.fit(module, SmallImages())
        runner.save_checkpoint(tmp_path / "run.ckpt")
        secret = (tmp_path / FILE).read_text()
        assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
        assert secret not in repr(torch.load(tmp_path / "run.ckpt", weights_only=True))
        found.append((secret, weights(module)))
    (secret, first), (other, second) = found
    assert secret != other
    assert not torch.equal(first["network.head.weight"], second["network.head.weight"])


def test_option_makes_a_run_private_and_its_record_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    configs = ("configs/quickstart_transfer.yaml", "configs/options/private.yaml")
    arguments = [word for config in configs for word in ("--config", config)]
    main(["fit", *arguments, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--version", "run"])
    folder = Path("logs/quickstart_transfer/run")
    record = json.loads((folder / "results.json").read_text())
    privacy = record["privacy"]
    assert privacy["epsilon"] == pytest.approx(
        by_opacus(record["steps"], privacy["noise_multiplier"], privacy["sampling_rate"], 1e-5), abs=1e-9
    )
    assert 2.9 < privacy["epsilon"] <= 3
    assert record["data"].keys() == {"train_examples", "validation_examples", "test_examples"}
    printed = capsys.readouterr().out
    assert f"epsilon {privacy['epsilon']:.2f} at delta 1e-05 after {record['steps']} private steps" in printed
    assert "privacy/epsilon" in printed
    assert "train/loss" not in printed
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["class_path"].endswith("SeedCNN")  # the experiment's own


def test_model_card_says_what_a_run_cost() -> None:
    privacy = {"epsilon": 2.9876, "delta": 1e-5, "steps": 7, "not_in_epsilon": ["other runs"]}
    texts = dict.fromkeys(("network", "problem_type", "data", "file", "command", "preprocessing"), "x")
    export = {**texts, "inputs": {}, "outputs": {}, "classes": [], "check": {"batches": [], "max_difference": 0.0}}
    assert "- **Privacy:** differentially private training, ε 2.99 at δ 1e-05; not in it: other runs" in model_card(
        "a", None, export, {"privacy": privacy}
    )
    assert "Privacy" not in model_card("a", None, export, {"privacy": None})
