"""What reads training examples beside a private training is switched off, refused or named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch import callbacks
from private_toys import CLASSES, SmallImages, SmallNetwork, fit, private, trainer

import lightning_transfer
from lightning_transfer import (
    AdaptiveUnfreezing,
    Classifier,
    DemoTexts,
    FastCNN,
    ImageDataModule,
    LearningWithoutForgetting,
    LSTMClassifier,
    Mixing,
    ProgressiveUnfreezing,
    SpectralShrinkage,
    UserError,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.settings import Dashboards
from lightning_transfer.modules.cached_features import CachedFeatures
from lightning_transfer.privacy.readers import REFUSED, SHOWING
from lightning_transfer.run.record import ResultsRecorder
from lightning_transfer.run.training_steps import TrainingSteps, rows_of_batch
from lightning_transfer.transfer.plan_table import plan
from lightning_transfer.transfer.range_test import range_test

pytest.importorskip("opacus")

# Callbacks of this package that take nothing from training examples but the weights and the noisy gradient.
ALLOWED = {
    *(
        "EarlyStopping",
        "ExponentialMovingAverage",
        "LowRankAdaptation",
        "ProgressiveUnfreezing",
        "StartingPointPenalty",
    ),
    *("WeightInterpolation", "LayerChanges", "RunCard", "TaskAffinity", "TrainingScalars", "UnfreezingTimeline"),
    *("Budget", "StartingWeights"),
}


# Those of Lightning that take no more from training batches than the training itself.
ALLOWED_OF_LIGHTNING = {
    *("BackboneFinetuning", "BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "EMAWeightAveraging"),
    *("EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "ModelPruning", "ModelSummary"),
    *("OnExceptionCheckpoint", "ProgressBar", "RichModelSummary", "RichProgressBar", "SpikeDetection"),
    *("TQDMProgressBar", "Timer", "WeightAveraging"),
}


def test_every_callback_of_lightning_is_allowed_refused_or_named() -> None:
    refused = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), tuple(REFUSED))}
    assert {*callbacks.__all__} == ALLOWED_OF_LIGHTNING | refused | {"LambdaCallback"}


def test_functions_of_a_lambda_callback_are_named_as_not_in_epsilon(tmp_path: Path) -> None:
    module = fit(tmp_path, callbacks=[callbacks.LambdaCallback(on_train_start=lambda *_: None)])
    assert "what lightning.pytorch.callbacks.lambda_function.LambdaCallback reads" in module.privacy["not_in_epsilon"]


def test_every_callback_and_dashboard_is_allowed_taken_away_or_refused() -> None:
    exported = [getattr(lightning_transfer, name) for name in lightning_transfer.__all__]
    kinds = [found for found in exported if isinstance(found, type) and issubclass(found, L.Callback)]
    kinds += [type(callback) for callback in Dashboards().callbacks({"data": {"init_args": {"tasks": {}}}}, "")]
    closed = {kind.__name__ for kind in kinds if issubclass(kind, (*SHOWING, *REFUSED))}
    assert {kind.__name__ for kind in kinds} - closed == ALLOWED
    assert not closed & ALLOWED


def test_features_that_are_shared_are_not_counted(tmp_path: Path) -> None:
    probe = [ProgressiveUnfreezing(schedule="linear_probe")]
    module = fit(tmp_path, private(cache_features="shared"), callbacks=probe)
    assert any(isinstance(callback, CachedFeatures) for callback in module.trainer.callbacks)
    assert module.shared_features is None


class OwnCallback(L.Callback):
    pass


def test_dashboards_that_show_examples_are_taken_away_and_own_callbacks_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    callbacks = [*Dashboards().callbacks({}, ""), OwnCallback()]
    runner = trainer(tmp_path, callbacks=callbacks, max_epochs=1)
    module = private()
    runner.fit(module, SmallImages())
    assert not any(isinstance(callback, SHOWING) for callback in runner.callbacks)
    assert any(isinstance(callback, OwnCallback) for callback in runner.callbacks)
    assert any("OwnCallback" in words for words in module.privacy["not_in_epsilon"])
    assert any("12 validation examples" in words for words in module.privacy["not_in_epsilon"])
    assert not any(name.startswith("train/") for name in runner.logged_metrics)
    assert "privacy/epsilon" in runner.callback_metrics


def test_record_has_the_number_of_examples_and_nothing_else_of_them(tmp_path: Path) -> None:
    recorder = ResultsRecorder()
    runner = trainer(tmp_path, callbacks=[recorder, TrainingSteps()], max_epochs=1)
    data = SmallImages()
    runner.fit(private(), data)
    record = recorder.record(runner, None)
    assert record["data"] == {"train_examples": 64, "validation_examples": 12, "validation_split": "validation"}
    assert record["privacy"]["steps"] == record["steps"] == 8


def test_rows_of_a_batch_are_not_said_where_they_are_private(tmp_path: Path) -> None:
    said = []
    for module, is_private in ((private(), True), (Classifier(SmallNetwork(), CLASSES), False)):
        runner = trainer(tmp_path, max_epochs=1)
        runner.fit(module, SmallImages(private=is_private))
        said.append(rows_of_batch(runner))
    assert said[0] == ""
    assert "its batch has the rows" in said[1]


def test_nothing_is_counted_or_measured_on_private_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("divided_splits.announce_classes", "labelled_splits.count_contradictions"):
        monkeypatch.setattr(f"lightning_transfer.data.{module}", None)
    monkeypatch.setattr("lightning_transfer.data.labelled_splits.check_overlap", None)
    data = SmallImages()
    data.test_follows = True
    data.prepare_data()
    data.setup("fit")
    with pytest.raises(UserError, match=r"data.private is true: expected no use of training examples"):
        data.training_sample(3)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SmallImages(mixing=Mixing(0.2)), "data.mixing is .*: expected none with data.private true"),
        (lambda: SmallImages(balanced_sampling=True), "data.balanced_sampling is True: expected none"),
        (lambda: SmallImages(near_duplicate_bits=4), "data.near_duplicate_bits is 4: expected none"),
        (lambda: ImageDataModule("x", image_size=8, private=True), "data.mean is null: expected a value"),
        (lambda: ImageDataModule("x", mean=(0, 0, 0), std=(1, 1, 1), private=True), "data.image_size is null"),
        (lambda: DemoTexts(private=True).vocabulary_size, "data.vocabulary_path is null: expected a value"),
    ],
)
def test_data_that_would_join_count_or_measure_examples_is_refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"callbacks": [SpectralShrinkage()]}, "SpectralShrinkage in trainer.callbacks adds a penalty"),
        ({"callbacks": [LearningWithoutForgetting()]}, "LearningWithoutForgetting in trainer.callbacks"),
        ({"callbacks": [AdaptiveUnfreezing()]}, "AdaptiveUnfreezing in trainer.callbacks thaws by gradients"),
        ({"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches is 2: expected 1"),
        ({"overfit_batches": 2}, "trainer.overfit_batches is set: expected 0"),
        ({"precision": "bf16-true"}, "trainer.precision is bf16-true: expected 32-true"),
        ({"data": SmallImages(private=False)}, "data.private is not set in SmallImages: expected true"),
        ({"module": {"class_weights": "balanced"}}, "model.class_weights is set: expected null"),
        ({"module": {"compile": True}}, "model.compile is true: expected false"),
        ({"module": {"delta": 0.02}}, "model.delta is 0.02: expected below 1 / 64"),
        ({"module": {"noise_multiplier": None, "target_epsilon": 3.0}, "max_epochs": -1}, "a training of known length"),
    ],
)
def test_training_that_cannot_be_private_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    module = private(**settings.pop("module", {}))
    with pytest.raises(UserError, match=words):
        fit(tmp_path, module, **settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "model.target_epsilon is null: expected a number"),
        ({"target_epsilon": 0.0}, "model.target_epsilon is 0.0: expected a number above 0"),
        ({"noise_multiplier": -1.0}, "model.noise_multiplier is -1.0: expected a number above 0"),
        ({"target_epsilon": 1.0, "clip_norm": 0.0}, "model.clip_norm is 0.0: expected a number above 0"),
        ({"noise_multiplier": float("inf")}, "model.noise_multiplier is inf: expected a number above 0"),
        ({"target_epsilon": 1.0, "delta": 1.0}, "model.delta is 1.0: expected a chance"),
        ({"target_epsilon": 1.0, "examples_at_once": 0}, "model.examples_at_once is 0: expected 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        lightning_transfer.PrivateClassifier(SmallNetwork(), CLASSES, **arguments)


def test_private_data_is_trained_on_by_the_private_module_alone(tmp_path: Path) -> None:
    data = SmallImages()
    for _ in range(2):  # before a private training, and after one
        with pytest.raises(UserError, match=r"data.private is true: expected PrivateClassifier as model"):
            trainer(tmp_path).fit(Classifier(SmallNetwork(), CLASSES), data)
        fit(tmp_path, data=data)


def test_first_layer_that_would_be_fitted_to_examples_stays_as_it_is(tmp_path: Path) -> None:
    network = FastCNN(CLASSES, (4, 4, 4))
    data = SmallImages()
    data.training_sample = None  # type: ignore[method-assign, assignment]
    module = private(network)
    module.trainer = trainer(tmp_path)
    module.fit_network_to_data()
    assert not network.whitening.is_fitted


def test_sparse_gradients_are_refused(tmp_path: Path) -> None:
    network = LSTMClassifier(20, CLASSES, embedding_size=4, hidden_size=4, sparse_gradients=True)
    with pytest.raises(UserError, match=r"sparse of network.embedding is true: expected false"):
        fit(tmp_path, private(network))


def test_plan_looks_at_no_batch_and_the_range_test_is_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, callbacks=[ProgressiveUnfreezing()])
    words = plan(runner, private(), SmallImages())
    assert "kept for backward" not in words
    assert "memory not measured: data.private is true" in words
    with pytest.raises(UserError, match="lr-find trains on examples without counting it"):
        range_test(trainer(tmp_path), private(), SmallImages(), 1e-4, 1.0, 20)


def test_network_that_was_trained_privately_is_used_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_transfer.errors.importlib.util.find_spec", lambda _: None)
    module = private()
    trainer(tmp_path).test(module, SmallImages(), verbose=False)
    with pytest.raises(UserError, match="PrivateClassifier needs opacus"):
        fit(tmp_path, module)


def test_second_fit_of_a_module_names_the_first(tmp_path: Path) -> None:
    module = fit(tmp_path, max_epochs=1)
    first = module.privacy["epsilon"]
    fit(tmp_path, module, max_epochs=1)
    assert f"an earlier fit of this module, with epsilon {first:.2f}" in module.privacy["not_in_epsilon"]


def test_missing_library_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_transfer.errors.importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as status:
        main(["fit", "--config", "configs/quickstart.yaml", "--config", "configs/options/private.yaml"])
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert "PrivateClassifier needs opacus, which is not installed" in error
    assert "lightning-transfer[opacus]" in error
    assert not Path("logs").exists()
