"""Finished runs as one classifier."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from test_cli import error_line
from torch.utils.data import DataLoader

from lightning_transfer import Classifier, DemoTexts
from lightning_transfer.cli.ensemble import Predictions, mean, metrics, predictions_of
from lightning_transfer.cli.entry import main
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError

HERE = ["--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, one that reads forward and one that reads backward."""
    logs = tmp_path_factory.mktemp("logs")
    arguments = {
        "--logs": str(logs),
        "--experiment": "reviews",
        "--test_after_fit": "true",
        "--data": "DemoTexts",
        "--data.examples_per_class": "40",
        "--model.network": "LSTMClassifier",
        "--model.network.embedding_size": "8",
        "--model.network.hidden_size": "8",
        "--trainer.max_epochs": "1",
        "--trainer.enable_progress_bar": "false",
        "--trainer.enable_model_summary": "false",
    }
    for seed, direction in enumerate(["forward", "backward"]):
        own = ["--version", direction, "--model.network.direction", direction, "--seed_everything", str(seed)]
        main(["fit", *(word for pair in arguments.items() for word in pair), *HERE, *own])
    return [logs / "reviews" / "forward", logs / "reviews" / "backward"]


def results(run: Path) -> dict[str, dict[str, float]]:
    record: dict[str, dict[str, float]] = json.loads((run / "results.json").read_text())
    return record


def ensemble(*arguments: object) -> dict[str, dict[str, float]]:
    main(["ensemble", *map(str, arguments), "--output", "figures.json", "--predictions", "all.jsonl", *HERE])
    figures: dict[str, dict[str, float]] = json.loads(Path("figures.json").read_text())["metrics"]
    return figures


def test_each_run_is_worth_what_its_record_says_and_the_mean_more(runs: list[Path]) -> None:
    figures = ensemble(*runs)
    assert list(figures) == [*map(str, runs), "mean of 2"]
    for run in runs:
        expected = {name.removeprefix("test/"): value for name, value in results(run)["test"].items()}
        assert figures[str(run)] == pytest.approx(expected, abs=1e-6)
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    data = DemoTexts()
    labels, names = data.read_split("test").labels.tolist(), data.class_names
    right = [line["class"] == names[labels[line["name"]]] for line in lines]
    assert [line["name"] for line in lines] == [*range(len(labels))]
    assert np.mean(right) == pytest.approx(figures["mean of 2"]["accuracy"])
    # The loss is convex in the probabilities, and the runs do not say the same of every review.
    assert figures["mean of 2"]["loss"] < sum(figures[str(run)]["loss"] for run in runs) / 2


def test_file_that_cannot_be_written_is_refused_first(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "ensemble", *map(str, runs), "--output", "nowhere/figures.json")
    assert line == "cannot write nowhere/figures.json: No such file or directory; choose another file with --output"
    line = error_line(capsys, "ensemble", *map(str, runs), "--output", "same.json", "--predictions", "./same.json")
    assert line == "--predictions is same.json, as --output is: expected two different files"


def test_run_without_a_hold_out_is_worth_its_last_weights(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    everything = ["--data.validation_fraction", "0", "--version", "everything", "--dashboards", "null"]
    main(["fit", "--config", str(runs[0] / "config.yaml"), *everything])
    run = runs[0].with_name("everything")
    figures = ensemble(runs[1], run)
    assert figures[str(run)]["loss"] == pytest.approx(results(run)["test"]["test/loss"], abs=1e-6)
    with pytest.raises(SystemExit):
        ensemble(run, runs[1], "--split", "validation")
    assert "a run that held nothing out has no validation split" in capsys.readouterr().err


def test_language_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [Path("logs/quickstart_lm") / version for version in ("a", "b")]
    for run in runs:
        small = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--dashboards", "null", *HERE]
        main(["fit", "--config", "configs/quickstart_lm.yaml", "--version", run.name, *small])
    with pytest.raises(SystemExit):
        ensemble(*runs)
    assert "LanguageModel gives no class probabilities" in capsys.readouterr().err


class PlainLoaders(L.LightningDataModule):
    """Somebody's own data, in torch's loaders."""

    num_classes = 3

    def train_dataloader(self) -> DataLoader[Any]:
        batch = ImageBatch(torch.rand(6, 3, 32, 32), torch.arange(6) % 3, torch.arange(6))
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.mark.parametrize("command", ["predict", "ensemble", "ensemble --split validation"])
def test_loader_that_does_not_know_its_rows_is_refused_before_any_step(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [Path("logs/default") / version for version in ("a", "b")]
    for run in runs:
        own = ["--data", "test_ensemble.PlainLoaders", "--model.network", "SeedCNN", "--version", run.name]
        main(["fit", *own, "--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false", *HERE])
    for step in ("predict_step", "test_step", "validation_step"):
        monkeypatch.setattr(Classifier, step, lambda *_: pytest.fail("a step was taken"))
    arguments = [*command.split(), *map(str, runs)]
    if command == "predict":
        arguments = ["predict", "--config", f"{runs[0]}/config.yaml", "--ckpt_path", f"{runs[0]}/checkpoints/last.ckpt"]
    line = error_line(capsys, *arguments, *HERE)
    assert line.startswith("a DataLoader does not say which rows its batches are of: expected a DataL")


def test_validation_split_is_that_of_the_runs(runs: list[Path]) -> None:
    figures = ensemble(*runs, "--split", "validation")
    for run in runs:
        assert figures[str(run)]["loss"] == pytest.approx(results(run)["validation"]["val/loss"], abs=1e-6)


def test_data_that_only_have_the_same_labels_are_refused(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "a fine film", "label": "good"}, {"text": "a dull film", "label": "bad"}]
    for name, word in (("films", "film"), ("soups", "soup")):
        Path(name).mkdir()
        text = "\n".join(json.dumps(row).replace("film", word) for row in rows * 10)
        for split, adjective in (("train", "fine"), ("test", "great")):
            Path(name, f"{split}.jsonl").write_text(text.replace("fine", adjective).replace("dull", f"not {adjective}"))
        small = ["--data", "TextDataModule", "--data.path", name, "--model.network", "LSTMClassifier"]
        main(["fit", *small, "--version", name, "--trainer.max_epochs", "1", "--dashboards", "null", *HERE])
    with pytest.raises(SystemExit):
        ensemble("logs/default/films", "logs/default/soups")
    assert "were not evaluated on the same examples" in capsys.readouterr().err


def test_limited_evaluation_is_of_the_examples_it_saw(runs: list[Path]) -> None:
    limited = ["--trainer.limit_test_batches", "1", "--data.eval_batch_tokens", "500"]
    figures = ensemble(*runs, *limited)
    forward, backward = (predictions_of(run, "test", [*limited, *HERE]) for run in runs)
    assert 0 < len(forward.rows) < len(predictions_of(runs[0], "test", HERE).rows)
    assert figures[str(runs[0])] == metrics(forward)
    assert figures["mean of 2"] == metrics(mean({"forward": forward, "backward": backward}))


def test_predictions_are_in_the_order_of_the_data_though_texts_are_read_by_length(runs: list[Path]) -> None:
    found = predictions_of(runs[0], "test", ["--trainer.limit_test_batches", "1", *HERE])
    assert len(found.rows) > 100
    assert found.rows.tolist() == sorted(found.rows.tolist())
    assert torch.equal(found.labels, DemoTexts().read_split("test").labels[found.rows])


def test_mean_and_its_metrics_are_those_computed_by_hand() -> None:
    rows, labels = torch.arange(2), torch.tensor([0, 1])
    first = Predictions(rows, labels, torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    second = Predictions(rows, labels, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    together = mean({"first": first, "second": second})
    assert together.probabilities.tolist() == [pytest.approx([0.7, 0.3]), pytest.approx([0.3, 0.7])]
    assert metrics(first)["accuracy"] == 0.5
    assert metrics(together)["accuracy"] == 1
    assert metrics(together)["loss"] == pytest.approx(-torch.tensor(0.7).log().item())


@pytest.mark.parametrize("several", [False, True])
def test_classes_in_another_order_are_averaged_by_their_names(several: bool) -> None:
    probabilities, order = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), [2, 0, 1]
    labels = torch.tensor([0, 2])
    first = Predictions(torch.arange(2), labels, probabilities, class_names=["a", "b", "c"])
    other = first._replace(probabilities=probabilities[:, order], class_names=["c", "a", "b"])
    if several:
        first = first._replace(labels=torch.eye(3)[labels])
        other = other._replace(labels=first.labels[:, order])
    else:
        other = other._replace(labels=torch.tensor([1, 0]))
    together = mean({"first": first, "other": other})
    assert torch.equal(together.probabilities, probabilities)
    assert torch.equal(together.labels, first.labels)
    assert together.class_names == ["a", "b", "c"]


def test_label_thought_impossible_costs_a_finite_loss() -> None:
    certain = Predictions(torch.arange(1), torch.tensor([1]), torch.tensor([[1.0, 0.0]]))
    assert 80 < metrics(certain)["loss"] < 100


@pytest.mark.parametrize("change", ["rows", "labels", "classes", "fingerprints"])
def test_runs_of_other_examples_are_refused(change: str) -> None:
    first = Predictions(torch.arange(2), torch.tensor([0, 1]), torch.full((2, 2), 0.5), {"train": "a", "test": "b"})
    other = {
        "rows": first._replace(rows=torch.tensor([0, 2])),
        "labels": first._replace(labels=torch.tensor([1, 1])),
        "fingerprints": first._replace(fingerprints={"test": "c"}),
        "classes": first._replace(probabilities=torch.full((2, 3), 1 / 3)),
    }[change]
    with pytest.raises(UserError, match=r"b and a were not evaluated on the same examples: .*data\.split_seed"):
        mean({"a": first, "b": other})


def test_what_is_no_finished_run_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, line in {
        (str(tmp_path),): f"an ensemble of {tmp_path} alone is that run: name at least two",
        ("a", "b", "a/"): "a is named twice",
        ("a", "./b/../a"): "a is named twice",
        (str(tmp_path), "b"): f"{tmp_path} has no config.yaml: expected the folder of a finished run",
    }.items():
        with pytest.raises(SystemExit) as exit_:
            main(["ensemble", *arguments])
        assert exit_.value.code == 2
        assert line in capsys.readouterr().err
