"""Sets with rare classes: weights in the loss, and epochs that are drawn evenly."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import fit_arguments, image_dataset, write_parquet
from test_class_counts import as_fit, texts
from test_cli import error_line
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import CIFAR10, AdversarialClassifier, Classifier, DemoTexts, SeedCNN
from lightning_transfer.data.balanced_sampling import balanced_order
from lightning_transfer.data.buckets import bucketed_batches
from lightning_transfer.data.loader import shuffled_batches
from lightning_transfer.errors import UserError
from lightning_transfer.modules.losses import LOSSES, Loss, balanced_weights

LABELS = np.repeat([0, 1, 2], [70, 25, 5])
ROWS = np.random.default_rng(0).permutation(100) + 1000
ORDER = balanced_order(ROWS, LABELS)
LOGITS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)) * 3
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0])


def test_balanced_epoch_has_equally_many_of_each_class_and_repeats_as_little_as_it_can() -> None:
    class_of = dict(zip(ROWS.tolist(), LABELS.tolist(), strict=True))
    epochs = [ORDER(np.random.default_rng([3, epoch])) for epoch in range(4)]
    for rows in epochs:
        counts = np.bincount([class_of[row] for row in rows.tolist()])
        assert sorted(counts) == [33, 33, 34]
        found, times = np.unique(rows, return_counts=True)
        for number, (fewest, most) in enumerate([(1, 1), (1, 2), (6, 7)]):
            of_class = [n for row, n in zip(found.tolist(), times.tolist(), strict=True) if class_of[row] == number]
            assert set(of_class) <= {fewest, most}
    assert len({class_of[row] for row in epochs[0][:12].tolist()}) == 3  # in no order of the classes
    seen = {row for rows in epochs for row in rows.tolist() if class_of[row] == 0}
    assert len(seen) > 55  # of 70, where one epoch has 33 or 34
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[2], ORDER(np.random.default_rng([3, 2])))


def test_more_classes_than_rows_are_drawn_from_too() -> None:
    rows = balanced_order(np.arange(3), np.array([5, 6, 7]))(np.random.default_rng(0))
    assert sorted(rows.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["shuffled", "bucketed"])
def test_balanced_batches_are_the_same_on_any_number_of_ranks(kind: str) -> None:
    def batches(**share: int) -> list[list[int]]:
        options: dict[str, Any] = {"batch_size": 20, "seed": 1, "order": ORDER, **share}
        if kind == "shuffled":
            made = shuffled_batches(ROWS, **options)
        else:
            made = bucketed_batches(ROWS, np.arange(1100) % 40 + 1, **options)
        return [batch.tolist() for batch in made(2)]

    whole = batches()
    assert len(whole) == 5
    halves = [batches(rank=rank, world_size=2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]


@pytest.mark.parametrize("images", [True, False])
def test_balanced_sampling_resumes_where_it_was(images: bool, tmp_path: Path) -> None:
    def data() -> Any:
        if images:
            made: Any = CIFAR10(path=str(tmp_path / "set"), batch_size=6, balanced_sampling=True)
        else:
            made = texts(tmp_path, ["a"] * 40 + ["b"] * 5, balanced_sampling=True)
        return as_fit(made)

    if images:
        dataset = image_dataset(60, 2)
        rare = [row for row in range(60) if row % 2 == 0 or row < 12]
        write_parquet(tmp_path / "set", train=dataset.select(rare), test=dataset)
    first, second = data(), data()
    loader = first.train_dataloader()
    loader.set_epoch(3)
    batches = iter(loader)
    seen = [next(batches).labels for _ in range(3)]
    second.load_state_dict(first.state_dict())
    resumed = second.train_dataloader()
    resumed.set_epoch(3)
    rest = [batch.labels for batch in resumed]
    assert [labels.tolist() for labels in rest] == [batch.labels.tolist() for batch in batches]
    labels = torch.cat([*seen, *rest])
    assert abs(int((labels == 1).sum()) - len(labels) / 2) <= first.batch_size
    validation = torch.cat([batch.labels for batch in first.val_dataloader()])
    assert (validation == 1).float().mean() < 0.3


@pytest.mark.parametrize("problem_type", ["multilabel", "regression"])
def test_balanced_sampling_is_of_examples_with_one_class(problem_type: Any) -> None:
    with pytest.raises(UserError, match=f"data.balanced_sampling is true: .* with data.problem_type {problem_type}"):
        DemoTexts(problem_type=problem_type, balanced_sampling=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
def test_weighted_loss_is_the_mean_over_the_examples_of_weight_times_loss(loss: Loss, smoothing: float) -> None:
    made: Any = LOSSES[loss](5, smoothing)
    labels = torch.arange(16) % 5
    if loss == "cross_entropy" and smoothing:  # the share that is spread over all classes counts by their weights
        target = F.one_hot(labels, 5) * (1 - smoothing) + smoothing / 5
        expected = -(target * WEIGHTS * LOGITS.log_softmax(1)).sum(1).mean()
    else:
        expected = torch.stack(
            [made(LOGITS[i : i + 1], labels[i : i + 1]) * WEIGHTS[labels[i]] for i in range(16)]
        ).mean()
    torch.testing.assert_close(made.weighted(LOGITS, labels, WEIGHTS), expected)
    torch.testing.assert_close(made.weighted(LOGITS, F.one_hot(labels, 5).float(), WEIGHTS), expected)
    torch.testing.assert_close(made.weighted(LOGITS, labels, torch.ones(5)), made(LOGITS, labels))
    assert made.weighted(LOGITS.bfloat16(), labels, WEIGHTS).dtype == torch.float32


def test_two_classes_that_share_a_logit_are_weighted_too() -> None:
    made: Any = LOSSES["binary_cross_entropy"](2, 0.0)
    labels, weights = torch.arange(16) % 2, torch.tensor([0.5, 3.0])
    each = F.binary_cross_entropy_with_logits(LOGITS[:, 0], labels.float(), reduction="none")
    torch.testing.assert_close(made.weighted(LOGITS[:, :1], labels, weights), (each * weights[labels]).mean())


def test_balanced_weights_give_each_class_the_same_share() -> None:
    counts = torch.tensor([70, 25, 5, 0])
    weights = balanced_weights(counts)
    assert weights[3] == 0
    torch.testing.assert_close((counts * weights)[:3], torch.full((3,), 100 / 3))


class Losses(L.Callback):
    """Keeps the loss of each training batch, and the weights of the classes."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: Tensor | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.weights = pl_module._weights


def fit(model: Classifier, data: Any) -> tuple[Losses, float]:
    kept = Losses()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=2, callbacks=[kept], **quiet, enable_model_summary=False)
    trainer.fit(model, data)
    [metrics] = trainer.validate(model, data, verbose=False)
    return kept, metrics["val/loss"]


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(60, 3), nn.Linear(3, 2)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(token_ids).mean(1))
        return logits


@pytest.mark.parametrize("kind", [Classifier, AdversarialClassifier])
def test_weights_of_a_fit_follow_from_its_training_examples_and_leave_the_validation_alone(
    kind: type[Classifier], tmp_path: Path
) -> None:
    labels = ["a"] * 30 + ["b"] * 10
    rate_zero: Any = lambda groups: torch.optim.SGD(groups, lr=0.0)  # noqa: E731
    plain, validation = fit(kind(Texts(), 2, optimizer=rate_zero), texts(tmp_path, labels))
    balanced, same = fit(kind(Texts(), 2, optimizer=rate_zero, class_weights="balanced"), texts(tmp_path, labels))
    assert plain.weights is None
    torch.testing.assert_close(balanced.weights, torch.tensor([36 / 54, 36 / 18]))
    assert same == validation
    assert plain.losses != balanced.losses
    doubled, same = fit(kind(Texts(), 2, optimizer=rate_zero, class_weights=[2.0, 2.0]), texts(tmp_path, labels))
    assert same == validation
    assert doubled.losses == pytest.approx([2 * loss for loss in plain.losses], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0]}, r"class_weights is \[1.0\]: expected balanced, or 2 numbers from 0, one for each"),
        ({"class_weights": [1.0, -1.0]}, "expected balanced, or 2 numbers from 0"),
        ({"class_weights": [0.0, 0.0]}, "expected balanced, or 2 numbers from 0"),
        ({"class_weights": "equal"}, "class_weights is equal: expected balanced, or 2 numbers"),
        ({"class_weights": "balanced", "loss": nn.CrossEntropyLoss()}, "expected null with CrossEntropyLoss, a loss"),
        ({"class_weights": "balanced", "problem_type": "regression"}, "expected null with MSELoss"),
        (
            {"class_weights": "balanced", "problem_type": "multilabel"},
            "expected null with MultilabelBinaryCrossEntropy",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(SeedCNN(2), 2, **arguments)


def test_rare_classes_are_not_counted_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_parquet(tmp_path / "set", train=image_dataset(30))
    both = ["--model.class_weights", "balanced", "--data.balanced_sampling", "true"]
    assert "expected one of them, as both together would count rare classes twice" in error_line(
        capsys, *fit_arguments(folder, *both)
    )


def test_balanced_weights_need_data_that_counts_its_classes(tmp_path: Path) -> None:
    batch = (torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))
    loader = torch.utils.data.DataLoader([(image, label) for image, label in zip(*batch, strict=True)], batch_size=2)
    data = L.LightningDataModule.from_datasets(loader.dataset, batch_size=2, num_workers=0)
    with pytest.raises(UserError, match="LightningDataModule has no class_counts: give a number for each class"):
        fit(Classifier(SeedCNN(2), 2, class_weights="balanced"), data)
