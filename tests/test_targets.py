"""Several classes, or numbers, for each example, of images and of texts; losses and metrics of the user's."""

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torchmetrics.functional as scores
import yaml
from conftest import UNBOUNDED, write_parquet
from test_cli import error_line
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from lightning_transfer import AdversarialClassifier, Classifier, ImageDataModule, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.label_columns import LabelColumns
from lightning_transfer.data.mixing import Mixing
from lightning_transfer.errors import UserError
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.targets import TARGETS
from lightning_transfer.report.run_files import read_run

HERE = "test_targets"
SMALL = [
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.enable_model_summary", "false"),
    *("--trainer.log_every_n_steps", "2", "--test_after_fit", "true", "--data.batch_size", "10", *UNBOUNDED),
]
IMAGES = ["--data", "ImageDataModule", "--model.network", "SeedCNN", *SMALL]
TEXTS = ["--data", "TextDataModule", "--model.network", "LSTMClassifier", "--model.network.hidden_size", "8", *SMALL]
RUN = Path("logs/default")


class Focal(nn.Module):
    """Has a buffer, as a loss with class weights has."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", torch.ones(2))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(logits, labels, self.weight, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


class Certain(nn.CrossEntropyLoss):
    """Says itself what its probabilities are."""

    def probabilities(self, logits: Tensor) -> Tensor:
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


def dataset(rows: int, seed: int) -> datasets.Dataset:
    generator = np.random.default_rng(seed)
    red, round_ = generator.integers(0, 2, (2, rows))
    images = generator.integers(0, 60, (rows, 32, 32, 3), dtype=np.uint8)
    images[..., 0] += (120 * red[:, None, None]).astype(np.uint8)
    images[..., 2] += (120 * round_[:, None, None]).astype(np.uint8)
    tags = [[name for name, has in (("round", b), ("red", a)) if has] for a, b in zip(red, round_, strict=True)]
    columns = {
        "image": list(images),
        # The number keeps the texts of the two splits apart.
        "text": [
            f"a {'red' if a else 'blue'} {'ball' if b else 'box'} {100 * seed + row}"
            for row, (a, b) in enumerate(zip(red, round_, strict=True))
        ],
        "tags": tags,
        "numbered_tags": [[int(tag == "round") for tag in row] for row in tags],
        "red": red.astype(bool),
        "round": round_.astype(float),
        "size": 2.0 * red - round_ + 0.5,
        "label": red,
    }
    features = {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "tags": datasets.List(datasets.Value("string")),
        "numbered_tags": datasets.List(datasets.ClassLabel(names=["red", "round"])),
        "red": datasets.Value("bool"),
        "round": datasets.Value("float64"),
        "size": datasets.Value("float64"),
        "label": datasets.Value("int64"),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_parquet(tmp_path_factory.mktemp("own") / "set", train=dataset(60, 0), test=dataset(20, 1)))


def results(version: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RUN / version / "results.json").read_text())
    return record


def predictions(version: str, *arguments: str) -> list[dict[str, Any]]:
    files = [
        "--config",
        str(RUN / version / "config.yaml"),
        "--ckpt_path",
        str(RUN / version / "checkpoints/best.ckpt"),
    ]
    main(["predict", *files, *arguments])
    return [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]


def ensemble(*versions: str) -> dict[str, dict[str, float]]:
    runs = [str(RUN / version) for version in versions]
    main(["ensemble", *runs, "--trainer.accelerator", "cpu", "--output", "ensemble.json"])
    figures: dict[str, dict[str, float]] = json.loads(Path("ensemble.json").read_text())["metrics"]
    return figures


def test_images_with_several_classes_are_learned_recorded_reported_and_predicted(folder: str) -> None:
    auroc = ["--model.metrics.auroc", "torchmetrics.classification.MultilabelAUROC"]
    auroc += ["--model.metrics.auroc.num_labels", "2"]
    target = ["--data.path", folder, "--data.problem_type", "multilabel", "--data.label_column", "tags"]
    mixing = ["--data.mixing.mixup_alpha", "1"]
    main(["fit", *IMAGES, *target, *auroc, "--version", "a"])
    main(["fit", *IMAGES, *target, *auroc, "--version", "b", "--seed_everything", "1", *mixing])
    record = results("a")
    names = {"loss", "subset_accuracy", "micro_f1", "macro_f1", "mean_average_precision", "auroc"}
    assert set(record["validation"]) == {f"val/{name}" for name in names}
    assert set(record["test"]) == {f"test/{name}" for name in names}
    assert record["selected_by"] == "val/mean_average_precision"
    run = read_run(RUN / "a", "a")
    assert "train/subset_accuracy" in run.scalars
    assert "training/examples" in run.images
    assert not [tag for tag in run.images if tag.startswith(("validation/", "attribution/"))]
    main(["report", str(RUN)])
    page = Path(RUN, "report.html").read_text()
    assert page.count("<button>test auroc</button>") == 1
    assert page.count('aria-label="Auroc: val/auroc"') == 2  # a curve of each run
    [first, *_] = lines = predictions("a")
    assert len(lines) == 20
    assert list(first["probabilities"]) == ["red", "round"]
    assert all(
        line["classes"] == [name for name, value in line["probabilities"].items() if value >= 0.5] for line in lines
    )
    figures = ensemble("a", "b")
    assert figures[str(RUN / "a")]["auroc"] == pytest.approx(record["test"]["test/auroc"])
    assert figures[str(RUN / "a")]["loss"] == pytest.approx(record["test"]["test/loss"], rel=1e-4)
    assert set(figures["mean of 2"]) == names


def test_numbers_of_texts_are_learned_recorded_and_predicted(folder: str) -> None:
    target = ["--data.path", folder, "--data.problem_type", "regression", "--data.label_column", "[size, round]"]
    main(["fit", *TEXTS, *target, "--version", "a", "--model.loss", "huber"])
    main(["fit", *TEXTS, *target, "--version", "b", "--model", "AdversarialClassifier", *TEXTS[2:]])
    record = results("a")
    assert set(record["validation"]) == {"val/loss", "val/mae", "val/rmse", "val/r2"}
    assert record["selected_by"] == "val/rmse"
    best = min(entry["val/rmse"] for entry in record["validations"])
    assert record["validation"]["val/rmse"] == best
    assert record["data"]["train_examples"] == 54
    assert (RUN / "a/projector/after/metadata.tsv").read_text().splitlines()[1].startswith("size ")
    Path("reviews.txt").write_text("a red ball\na box\n")
    lines = predictions("a", "--data.predict_path", "reviews.txt")
    assert [list(line["values"]) for line in lines] == [["size", "round"]] * 2
    figures = ensemble("a", "b")
    assert figures[str(RUN / "b")]["rmse"] ** 2 == pytest.approx(results("b")["test"]["test/loss"], rel=1e-4)
    assert figures["mean of 2"]["loss"] == pytest.approx(figures["mean of 2"]["rmse"] ** 2, rel=1e-4)


def test_own_loss_and_metric_are_trained_by_recorded_and_chosen_by(folder: str) -> None:
    own = ["--model.loss", f"{HERE}.Focal", "--model.loss.gamma", "1", "--checkpoint.monitor", "val/auroc"]
    own += ["--checkpoint.mode", "max", "--model.metrics.auroc", "torchmetrics.AUROC"]
    own += ["--model.metrics.auroc.task", "multiclass", "--model.metrics.auroc.num_classes", "2"]
    main(["fit", *IMAGES, "--data.path", folder, *own, "--version", "a"])
    record = results("a")
    assert record["selected_by"] == "val/auroc"
    assert {"val/auroc", "val/accuracy", "val/calibration_error"} <= set(record["validation"])
    saved = torch.load(RUN / "a/checkpoints/best.ckpt", weights_only=True)
    assert "loss.weight" in saved["state_dict"]
    assert not {"loss", "metrics"} & set(saved["hyper_parameters"])
    main(["validate", "--config", str(RUN / "a/config.yaml"), "--ckpt_path", str(RUN / "a/checkpoints/best.ckpt")])
    assert len(predictions("a")) == 20


def test_precision_that_rounds_the_numbers_to_predict_is_refused(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "ImageDataModule", "--data.path", folder, "--data.problem_type", "regression"]
    given = ["--data.label_column", "size", "--model.network", "SeedCNN", "--trainer.precision", "bf16-true"]
    line = error_line(capsys, "fit", *data, *given)
    assert "precision is bf16-true: expected bf16-mixed with data.problem_type regression, as it rounds" in line


@pytest.mark.parametrize(
    ("problem_type", "arguments", "message"),
    [
        ("classification", ["--data.label_column", "size"], "or set data.problem_type to regression"),
        ("classification", ["--data.label_column", "[red, round]"], "expected one column with data.problem_type class"),
        ("multilabel", ["--data.label_column", "[red, blue]"], "has no column 'blue'"),
        ("multilabel", ["--data.label_column", "[red, size]"], "expected 0 or 1; correct the data"),
        ("multilabel", ["--data.label_column", "text"], "expected lists of classes, or several columns of 0 and 1"),
        ("multilabel", ["--data.label_column", "red"], "model.num_classes is 1: expected 2 or more"),
        ("regression", ["--data.label_column", "text"], "expected one number in each row"),
        ("regression", ["--data.examples_per_class", "5"], "set data.train_fraction"),
        ("regression", ["--model.label_smoothing", "0.1"], "expected 0 with this loss"),
        ("regression", ["--model.loss", "cross_entropy"], "expected mean_squared_error, mean_absolute_error, huber or"),
        ("regression", ["--model.problem_type", "multilabel"], "and the data has regression: leave it out"),
        ("regressing", [], "problem_type is regressing: expected classification, multilabel or regression"),
        ("classification", ["--model.loss", "cros_entropy"], "did you mean cross_entropy"),
    ],
)
def test_what_does_not_fit_is_one_line(
    problem_type: str, arguments: list[str], message: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "ImageDataModule", "--data.path", folder, "--data.problem_type", problem_type]
    assert message in error_line(capsys, "fit", *data, "--model.network", "SeedCNN", *arguments)
    assert not list(RUN.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"gives a tensor \[16\]: expected the mean of the batch"),
        ({"loss": nn.BCEWithLogitsLoss()}, r"does not take .* float \[16, 2\], and labels, int64 \[16\]"),
        ({"loss": nn.CrossEntropyLoss(), "label_smoothing": 0.1}, "expected 0 with this loss"),
        ({"metrics": {"accuracy": MulticlassAUROC(2)}}, "model.metrics has accuracy, which is measured in any case"),
        ({"metrics": {"auroc": MulticlassAUROC(3)}}, "model.metrics.auroc is MulticlassAUROC, which does not take"),
        ({"metrics": {"matrix": MulticlassConfusionMatrix(2)}}, r"gives a tensor \[2, 2\]: expected one number"),
        ({"problem_type": "numbers"}, "model.problem_type is numbers: expected classification, multilabel, regression"),
    ],
)
def test_loss_or_metric_that_does_not_fit_is_refused_before_the_training(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(SeedCNN(2), 2, **arguments)


def test_own_metrics_may_be_a_collection_and_a_loss_may_know_its_probabilities() -> None:
    own = MetricCollection({"auroc": MulticlassAUROC(2)}, prefix="own_")
    model = AdversarialClassifier(nn.Sequential(nn.Embedding(4, 2), nn.Flatten()), 4, metrics=None, loss=Certain())
    assert model.predictions(torch.tensor([[0.0, 2.0, 1.0, 0.0]])).tolist() == [[0, 1, 0, 0]]
    model = Classifier(SeedCNN(2), 2, metrics=own)
    assert "own_auroc" in model.validation_metrics.scores
    assert model.validation_metrics.scores["own_auroc"] is not model.test_metrics.scores["own_auroc"]


@pytest.mark.parametrize("columns", ["tags", "numbered_tags", ["red", "round"]])
def test_several_classes_are_read_from_lists_and_from_columns(columns: str | list[str]) -> None:
    rows, labels = dataset(40, 3), LabelColumns("multilabel", columns)
    names = labels.class_names(rows, "train")
    assert names == ["red", "round"]
    expected = torch.tensor([[float(a), float(b)] for a, b in zip(rows["red"], rows["round"], strict=True)])
    assert torch.equal(labels.read(rows, "train", names), expected)


def test_word_that_names_no_class_of_the_training_split_is_refused() -> None:
    lists = datasets.Dataset.from_dict({"tags": [["red"], [], ["green"]]})
    with pytest.raises(UserError, match="label 'green' in row 2 of split 'test' is out of range: expected one of red"):
        LabelColumns("multilabel", "tags").read(lists, "test", ["red", "round"])


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e300])
def test_row_without_a_number_is_refused(value: float | None) -> None:
    numbers = datasets.Dataset.from_dict({"size": [1.0, value]})
    with pytest.raises(UserError, match="in row 1 of split 'train': expected a finite number"):
        LabelColumns("regression", "size").read(numbers, "train", ["size"])


def test_hold_out_of_numbers_is_random_seeded_and_nested(folder: str) -> None:
    def parts(**arguments: Any) -> tuple[set[int], set[int]]:
        data = ImageDataModule(folder, label_column="size", problem_type="regression", batch_size=6, **arguments)
        data.prepare_data()
        data.setup("fit")
        loaders: Any = (data.train_dataloader(), data.val_dataloader())
        train, validation = ({row for batch in loader for row in batch.indices.tolist()} for loader in loaders)
        return train, validation

    train, validation = parts()
    few, same = parts(train_fraction=0.5)
    assert (len(train), len(validation)) == (54, 6)
    assert few < train
    assert validation == same
    assert not train & validation
    assert parts(split_seed=1)[1] != validation


def test_scores_are_those_of_torchmetrics_in_any_order_of_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, numbers = torch.randn(2, 50, 3, generator=generator) * 3 + 1000
    chosen = torch.rand(50, 3, generator=generator) < 0.4
    expected = {
        "mae": scores.mean_absolute_error(numbers, labels),
        "rmse": scores.mean_squared_error(numbers, labels, squared=False),
        "r2": scores.r2_score(numbers.double(), labels.double()).float(),
    }
    probabilities = torch.rand(50, 3, generator=generator)
    several = {
        "subset_accuracy": ((probabilities > 0.5) == chosen).all(1).float().mean(),
        "micro_f1": scores.classification.multilabel_f1_score(probabilities, chosen.long(), 3, average="micro"),
    }
    cases: list[tuple[ProblemType, Tensor, Tensor, dict[str, Tensor]]] = [
        ("regression", numbers, labels, expected),
        ("multilabel", probabilities, chosen.long(), several),
    ]
    for problem_type, predicted, true, known in cases:
        computed = []
        for order in (torch.arange(50), torch.arange(50).flip(0)):
            metrics = EvaluationMetrics(3, problem_type)
            for rows in order.split(7):
                metrics.update(torch.tensor(0.0), predicted[rows], true[rows])
            computed.append(metrics.compute_and_reset())
        assert computed[0] == computed[1]
        for name, value in known.items():
            assert computed[0][name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("problem_type", ["multilabel", "regression"])
def test_labels_of_another_shape_than_the_outputs_are_refused(problem_type: ProblemType) -> None:
    with pytest.raises(UserError, match=r"the labels of a batch are a tensor \[4\]: expected \[4, 2\]"):
        TARGETS[problem_type].sum_of_scores(torch.zeros(4, 2), torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_whole_numbers_of_any_kind_are_numbers_of_classes(dtype: torch.dtype) -> None:
    labels = TARGETS["classification"].taken(torch.tensor([0, 2, 1], dtype=dtype), 3)
    assert torch.equal(labels, torch.tensor([0, 2, 1]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "a label is 3: expected 0 to 2, as model.num_classes is 3"),
        (torch.tensor([-1, 0]), "a label is -1: expected 0 to 2"),
        (
            torch.tensor([0.0, 1.0]),
            r"the labels of a batch are float32 \[2\]: expected int64 \[batch\], each the number",
        ),
        (torch.zeros(2, 1, dtype=torch.int64), r"the labels of a batch are int64 \[2, 1\]: expected int64 \[batch\]"),
        (torch.zeros(2, 4), r"the labels of a batch are float32 \[2, 4\]: expected"),
    ],
    ids=["too high", "below 0", "float", "column", "shares of other classes"],
)
def test_labels_that_are_no_numbers_of_classes_are_one_line(labels: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TARGETS["classification"].taken(labels, 3)
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_classes=3)
    with pytest.raises(UserError, match=message):
        module.validation_step((torch.zeros(2, 4), labels), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_inputs_of_another_type_than_the_weights_are_one_line(dtype: torch.dtype) -> None:
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_classes=3)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"inputs of {name}: expected float32, as the weights of Sequential are"):
        module.training_step((torch.zeros(2, 4, dtype=dtype), torch.tensor([0, 1])), 0)  # type: ignore[arg-type]


def test_error_of_a_network_that_has_another_reason_is_kept() -> None:
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_classes=3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(torch.zeros(2, 5))


def test_smoothed_loss_of_several_classes_moves_labels_towards_a_half() -> None:
    loss = Classifier(SeedCNN(3), 3, problem_type="multilabel", label_smoothing=0.2).loss
    logits, smoothed = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.9, 0.1, 0.1]])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, smoothed)
    assert loss(logits, torch.tensor([[1, 0, 0]])).item() == pytest.approx(expected.item())


def test_mixed_images_have_mixed_numbers() -> None:
    labels = torch.tensor([[0.0], [10.0]])
    images, mixed = Mixing(mixup_alpha=1.0)(
        torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)]),
        labels,
        torch.arange(2),
        num_classes=1,
        seed=0,
        epoch=0,
    )
    assert torch.allclose(mixed[:, 0], 10 * images.mean((1, 2, 3)))


def test_study_compares_a_metric_of_the_users(folder: str) -> None:
    study = {
        "name": "own",
        "configs": ["base.yaml"],
        "strategies": {"scratch": "configs/strategies/scratch.yaml"},
        "seeds": [0],
        "metric": "auroc",
    }
    auroc = {"class_path": "torchmetrics.classification.MulticlassAUROC", "init_args": {"num_classes": 2}}
    model = {"network": {"class_path": "lightning_transfer.SeedCNN"}, "metrics": {"auroc": auroc}}
    base = {
        "data": {"class_path": "lightning_transfer.ImageDataModule", "init_args": {"path": folder, "batch_size": 10}},
        "model": {"class_path": "lightning_transfer.Classifier", "init_args": model},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "dashboards": None,
    }
    Path("base.yaml").write_text(yaml.safe_dump(base))
    Path("study.yaml").write_text(yaml.safe_dump(study))
    main(["study", "--config", "study.yaml", "--workers", "0"])
    assert "Test auroc" in next(Path("logs").rglob("own.md")).read_text()


@pytest.mark.parametrize("problem_type", ["classification", "multilabel", "regression"])
def test_data_can_be_sent_to_another_process(problem_type: ProblemType) -> None:
    data = ImageDataModule("somewhere", problem_type=problem_type)
    assert pickle.loads(pickle.dumps(data)).problem_type == problem_type


def test_text_of_a_data_module_reads_no_data() -> None:
    assert str(ImageDataModule("nowhere")) == "ImageDataModule()"
