"""The classifier: losses, metrics, and what it refuses."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassF1Score

from lightning_transfer import Classifier, DemoImages, FastCNN, SeedCNN
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError
from lightning_transfer.modules.losses import LOSSES, BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.targets import count_correct

LOGITS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(16) % 5


def test_smoothed_cross_entropy_is_that_of_torch() -> None:
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.2)
    assert torch.equal(CrossEntropy(5, 0.2)(LOGITS, LABELS), expected)


def test_one_logit_and_two_logits_of_binary_cross_entropy_agree_on_the_positive_class() -> None:
    logits, labels = LOGITS[:, :1], LABELS % 2
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    assert BinaryCrossEntropy(2)(logits, labels) == pytest.approx(expected.item())
    both = torch.cat([-logits, logits], 1)
    assert BinaryCrossEntropy(2)(both, labels) == pytest.approx(expected.item())


def test_mean_squared_error_is_to_the_one_hot_label() -> None:
    expected = F.mse_loss(LOGITS, F.one_hot(LABELS, 5).float())
    assert torch.equal(MeanSquaredError(5)(LOGITS, LABELS), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("columns", [1, 5])
def test_probabilities_sum_to_one_and_agree_with_the_predicted_class(loss: Loss, columns: int) -> None:
    if columns == 1 and loss != "binary_cross_entropy":
        return
    probabilities = LOSSES[loss](max(2, columns), 0.0).probabilities(LOGITS[:, :columns])
    assert probabilities.shape[1] == max(2, columns)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(16))
    clear = probabilities.max(1).values > 1 / probabilities.shape[1] + 1e-6
    assert clear.sum() >= 15
    predicted = probabilities.argmax(1)[clear]
    assert count_correct(LOGITS[clear, :columns], predicted) == clear.sum()


def evaluate(stage: str) -> tuple[Classifier, dict[str, float]]:
    L.seed_everything(0)
    model = Classifier(SeedCNN(10), 10)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    data = DemoImages("source", eval_batch_size=170)
    [metrics] = getattr(trainer, stage)(model, datamodule=data, verbose=False)
    return model, metrics


def test_evaluation_metrics_are_those_of_the_whole_split() -> None:
    model, metrics = evaluate("test")
    data = DemoImages("source")
    split = data.read_split("test")
    with torch.no_grad():
        logits = model((split.inputs.float() / 255 - 0.5) / 0.5)
    assert metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == split.labels).float().mean().item())
    assert metrics["test/loss"] == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert set(metrics) == {"test/loss", "test/accuracy", "test/macro_f1", "test/calibration_error"}


def test_macro_f1_is_that_of_torchmetrics_also_of_classes_that_are_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities, labels = torch.rand(90, 7, generator=generator), torch.randint(5, (90,), generator=generator)
    probabilities[:, 6] = 0  # neither a label nor predicted
    metrics, expected = EvaluationMetrics(7), MulticlassF1Score(7, average="macro")
    for rows in torch.arange(90).split(40):
        metrics.update(torch.tensor(0.0), probabilities[rows], labels[rows])
        expected.update(probabilities[rows], labels[rows])
    assert torch.equal(metrics.compute_and_reset()["macro_f1"], expected.compute())


def test_memory_of_an_evaluation_grows_with_the_number_of_classes_not_with_its_square() -> None:
    metrics = EvaluationMetrics(10**6)  # whose square would be 8 TB
    metrics.update(torch.tensor(0.0), F.one_hot(torch.tensor([3, 10**6 - 1]), 10**6).float(), torch.tensor([3, 0]))
    assert metrics.compute_and_reset()["accuracy"] == 0.5


def test_calibration_error_has_fifteen_bins_with_certainty_in_the_last() -> None:
    confidences = torch.tensor([1.0, 0.95]).repeat_interleave(50)
    labels = torch.zeros(100, dtype=torch.long)
    labels[:5] = 1  # a tenth of what is certain is wrong, nothing of the rest
    metrics = EvaluationMetrics(2)
    metrics.update(torch.tensor(0.0), torch.stack([confidences, 1 - confidences], 1), labels)
    error = metrics.compute_and_reset()["calibration_error"].item()
    assert error == pytest.approx(abs(confidences.mean().item() - 0.95), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": None}, "num_classes is None"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"warmup_fraction": -0.1}, "warmup_fraction is -0.1"),
        ({"lr_schedule": "cosine", "lr_scheduler": lambda optimizer: None}, "not both"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(SeedCNN(10), **{"num_classes": 10, **arguments})


def test_network_with_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(UserError, match="the network has 7 outputs, and the data 10 classes"):
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), 10)(torch.zeros(2, 3, 2, 2))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_network_without_an_axis_of_classes_is_refused(loss: Loss) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))  # as squeeze(1) has it
    expected = r"the network gives a tensor \[2\]: expected logits \[batch, classes\], a single one as \[batch, 1\]"
    with pytest.raises(UserError, match=expected):
        Classifier(network, 2, loss=loss)(torch.zeros(2, 3, 2, 2))


def test_optimizer_that_refuses_its_arguments_is_a_user_error() -> None:
    model = Classifier(SeedCNN(10), 10, optimizer=lambda params: torch.optim.SGD(params, lr=-1.0))
    with pytest.raises(UserError, match=r"optimizer: Invalid learning rate: -1.0"):
        model.configure_optimizers()


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1),
    ],
)
def test_scheduler_that_gives_all_layer_groups_one_learning_rate_is_refused_beside_a_decay(scheduler: Any) -> None:
    model = Classifier(SeedCNN(10), 10, lr_decay=2.6, lr_scheduler=scheduler)
    expected = r"lr_decay is 2.6, but .*LR gives all layer groups one learning rate: give it one for each of the 5"
    with pytest.raises(UserError, match=expected):
        model.configure_optimizers()
    Classifier(SeedCNN(10), 10, lr_scheduler=scheduler).configure_optimizers()


def test_scheduler_with_a_learning_rate_for_each_layer_group_is_taken() -> None:
    rates = [0.1 / 2.6**depth for depth in (4, 3, 2, 1, 0)]
    model = Classifier(
        SeedCNN(10),
        10,
        lr_decay=2.6,
        lr_scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=10),
    )
    optimizer = model.configure_optimizers()["optimizer"]  # type: ignore[call-overload, index]
    assert [group["max_lr"] for group in optimizer.param_groups] == rates


class Losses(L.Callback):
    """Keeps the loss of every step, and the mean that was logged last."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.of_steps: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.of_steps.append(float(outputs["loss"]))
        self.logged = float(trainer.callback_metrics.get("train/loss", 0.0))


def fit_to_noise(model: Classifier, *callbacks: L.Callback, steps: int, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = L.Trainer(callbacks=[*callbacks], max_steps=steps, enable_checkpointing=saves, **{**quiet, **options})
    generator = torch.Generator().manual_seed(0)
    batch = ImageBatch(torch.randn(4, 6, generator=generator), torch.arange(4) % 2, torch.arange(4))
    trainer.fit(model, DataLoader([batch] * steps, batch_size=None))  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_logged_loss_is_the_mean_of_its_interval_in_every_precision(precision: str) -> None:
    losses, model = Losses(), Classifier(nn.Linear(6, 2), 2, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    nn.init.constant_(model.network.bias, 0.0)
    model.network.bias.data[0] = 9.0
    fit_to_noise(model, losses, steps=400, precision=precision, log_every_n_steps=400)
    assert losses.logged == pytest.approx(sum(losses.of_steps) / 400, rel=1e-5)


def test_second_fit_and_an_evaluation_leave_the_log_of_a_fit_alone(tmp_path: Path) -> None:
    losses, model = Losses(), Classifier(nn.Linear(6, 2), 2)
    saving = ModelCheckpoint(dirpath=tmp_path, filename="saved", every_n_train_steps=5)
    trainer = fit_to_noise(model, saving, steps=5, log_every_n_steps=4)
    checkpoint = tmp_path / "saved.ckpt"
    assert torch.load(checkpoint, weights_only=True)["interval"]["batches"] == 1  # a step since the last log
    trainer.test(model, DataLoader([], batch_size=None), ckpt_path=checkpoint, verbose=False)  # type: ignore[arg-type]
    fit_to_noise(model, losses, steps=4, log_every_n_steps=4)
    assert losses.logged == pytest.approx(sum(losses.of_steps) / 4, rel=1e-5)
    again = Classifier.load_from_checkpoint(checkpoint, network=nn.Linear(6, 2))
    fit_to_noise(again, losses, steps=4, log_every_n_steps=4)
    assert losses.logged == pytest.approx(sum(losses.of_steps) / 4, rel=1e-5)


def test_layer_groups_of_a_network_may_be_a_list() -> None:
    class Listing(nn.Sequential):
        layer_groups = ("0", "1")

    model = Classifier(Listing(nn.Flatten(), nn.Linear(12, 2)), 2)
    assert model.layer_groups == {"0": ["network.0"], "1": ["network.1"]}


def test_layer_groups_cover_every_parameter_from_input_to_head() -> None:
    model = Classifier(SeedCNN(10), 10)
    assert list(model.layer_groups) == ["convolution1", "convolution2", "hidden1", "hidden2", "head"]
    modules = [model.get_submodule(path) for paths in model.layer_groups.values() for path in paths]
    covered = [parameter for module in modules for parameter in module.parameters()]
    assert [id(p) for p in covered] == [id(p) for p in model.parameters()]


@pytest.mark.slow
def test_compiled_network_keeps_its_names_and_in_bfloat16_its_logits_and_gradients() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    plain = Classifier(FastCNN(10, (8, 8, 8)), 10)
    plain.network.fit_to_data(images)
    compiled = Classifier(FastCNN(10, (8, 8, 8)), 10, compile=True)
    compiled.load_state_dict(plain.state_dict())
    logits = []
    for model in (plain, compiled):
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(model(images))
        F.cross_entropy(logits[-1].float(), labels).backward()
    torch.testing.assert_close(*logits, rtol=0.05, atol=0.05)
    filters = [(ours.grad, own.grad) for ours, own in zip(compiled.parameters(), plain.parameters(), strict=True)]
    for ours, own in [pair for pair in filters if pair[1].ndim == 4]:
        assert (ours - own).norm() < 0.05 * own.norm()


def test_predictions_of_16_bit_logits_are_those_that_the_validation_measured() -> None:
    model = Classifier(nn.Linear(6, 2), 2, loss=OwnLoss()).bfloat16()
    batch = ImageBatch(torch.randn(200, 6).bfloat16(), torch.arange(200) % 2, torch.arange(200))
    with torch.no_grad():
        found = model.predict_step(batch, 0)
        measured = model.predictions(model(batch.images).float())
    assert found.dtype == torch.float32
    assert torch.equal(found, measured)


class OwnLoss(nn.Module):
    """A loss of one's own that says what its probabilities are."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)


def test_validation_loss_is_added_up_in_float32_whatever_the_precision_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        ImageBatch(torch.randn(4, 6, generator=generator), torch.arange(4) % 2, torch.arange(4)) for _ in range(9)
    ]
    model = Classifier(nn.Linear(6, 2), 2)
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "enable_checkpointing": False}
    trainer = L.Trainer(precision="bf16-true", **quiet)
    [metrics] = trainer.validate(model, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    with torch.no_grad():
        logits = torch.cat([model.network.bfloat16()(batch.images.bfloat16()) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    expected = F.cross_entropy(logits.float(), labels)
    assert metrics["val/loss"] == pytest.approx(expected.item(), rel=1e-6)
