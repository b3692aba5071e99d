"""What a run shows in TensorBoard: by layer group, by phase, and where it fails."""

import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from conftest import UNBOUNDED, fit_arguments, run_folder
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing import plugin_event_accumulator
from torch.utils.data import DataLoader

from lightning_transfer import DemoImages, ProgressiveUnfreezing, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards import training_curves
from lightning_transfer.dashboards.events import Boards
from lightning_transfer.dashboards.measures import layout
from lightning_transfer.dashboards.settings import Dashboards
from lightning_transfer.dashboards.training_curves import TrainingScalars
from lightning_transfer.dashboards.validation_predictions import ValidationPredictions
from lightning_transfer.report.figures import ConfusionMatrix
from lightning_transfer.report.run_files import Run, read_run

GROUPS = ["convolution1", "convolution2", "hidden1", "hidden2", "head"]
GRADUAL = {
    "class_path": "lightning_transfer.ProgressiveUnfreezing",
    "init_args": {"schedule": "gradual", "until": {"steps": 3}},
}
UNFREEZING = ("--trainer.callbacks+", json.dumps(GRADUAL), "--model.lr_decay", "2")
OFTEN = ("--dashboards.every_n_steps", "1", "--trainer.log_every_n_steps", "3")


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of nine steps, thawing a layer group every three."""
    logs = tmp_path_factory.mktemp("logs")
    often = (*OFTEN, *UNBOUNDED, "--trainer.max_epochs", "2")
    main(fit_arguments(image_folder, *UNFREEZING, *often, "--logs", str(logs)))
    return read_run(logs / "default" / "version_0", "run")


def values(run: Run, tag: str) -> list[float]:
    return [value for _, value in run.scalars[tag]]


def test_learning_rates_are_by_layer_group_and_zero_while_frozen(run: Run) -> None:
    for depth, name in enumerate(reversed(GROUPS)):
        frozen = 3 * depth
        assert values(run, f"lr/{name}") == pytest.approx([0.0] * frozen + [0.01 / 2**depth] * (18 - frozen))


def test_frozen_groups_have_no_gradient_norm_and_trainable_ones_an_update(run: Run) -> None:
    for depth, name in enumerate(reversed(GROUPS)):
        for kind in ("gradient_norm", "update_ratio"):
            assert [step for step, _ in run.scalars[f"{kind}/{name}"]] == list(range(3 * depth, 18))
            assert min(values(run, f"{kind}/{name}")) > 0


def test_share_of_trainable_parameters_rises_to_one(run: Run) -> None:
    shares = values(run, "phase/trainable_share")
    assert shares == sorted(shares)
    assert len(set(shares)) == 5
    assert shares[-1] == 1


def test_speed_is_of_every_sample(run: Run) -> None:
    for name in ("examples_per_second", "step_seconds", "peak_memory_gib"):
        assert min(values(run, f"speed/{name}")) > 0
    assert all(0 <= share < 1 for share in values(run, "speed/data_wait_share"))


def test_timeline_has_every_transition_and_the_rates_between(run: Run) -> None:
    timeline = run.data["phase/timeline_data"]
    assert timeline["groups"] == GROUPS
    assert timeline["phases"] == [[3 * depth, GROUPS[4 - depth :]] for depth in range(5)]
    assert timeline["end"] == timeline["total"] == 18
    rates = {step: dict(zip(GROUPS, rates, strict=True)) for step, rates in timeline["rates"]}
    assert rates[0]["hidden2"] == 0
    assert rates[3]["hidden2"] == pytest.approx(0.005)


def test_confusion_matrix_and_reliability_are_those_of_the_last_validation(run: Run) -> None:
    counts = torch.tensor(run.data["validation/confusion_matrix_data"]["counts"])
    assert run.data["validation/confusion_matrix_data"]["class_names"] == ["class0", "class1", "class2"]
    assert counts.sum() == 9
    assert counts.trace() / 9 == pytest.approx(run.last("val/accuracy"))
    reliability = run.data["validation/reliability_data"]
    assert sum(reliability["counts"]) == 9
    assert sum(reliability["correct"]) == counts.trace()
    gaps = zip(reliability["correct"], reliability["confidence"], strict=True)
    assert sum(abs(right - sure) for right, sure in gaps) / 9 == pytest.approx(run.last("val/calibration_error"))


def test_pictures_are_those_of_the_best_checkpoint_and_not_of_the_last(image_folder: Path) -> None:
    # The best epoch is neither the first nor the last.
    moving = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.04", "--trainer.max_epochs", "4")
    main(fit_arguments(image_folder, *moving, *UNBOUNDED, "--dashboards.embeddings", "0"))
    run = read_run(run_folder(), "run")
    best_step, validation = run.best_validation()
    last_step = run.scalars["val/loss"][-1][0]
    assert best_step is not None
    assert run.scalars["val/loss"][0][0] < best_step < last_step
    for tag in ("confusion_matrix", "reliability", "top_losses"):
        assert run.steps[f"validation/{tag}"] == best_step, tag
    assert run.steps["attribution/grad_cam"] == best_step
    counts = torch.tensor(run.data["validation/confusion_matrix_data"]["counts"])
    assert counts.trace() / 9 == pytest.approx(validation["val/accuracy"])


def test_each_chart_of_custom_scalars_has_one_tag_because_a_run_has_one_color() -> None:
    groups = ["head", "layer1.0"]
    found = {title: {name: tags for name, (_, tags) in charts.items()} for title, charts in layout(groups).items()}
    assert all(len(tags) == 1 for charts in found.values() for tags in charts.values())
    assert list(found["Learning rate, 0 while frozen"]) == groups
    [pattern] = found["Gradient norm, before clipping"]["layer1.0"]
    tags = ["gradient_norm/layer1.0", "gradient_norm/layer1x0", "gradient_norm/layer1.01", "lr/layer1.0"]
    assert [bool(re.match(pattern, tag)) for tag in tags] == [True, False, False, False]


class AlwaysOne(L.LightningModule):
    """Is certain of class 1 whatever it sees; its batches are labels and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: SimpleNamespace, batch_idx: int) -> torch.Tensor:
        return self.weight

    def validation_step(self, batch: SimpleNamespace, batch_idx: int) -> torch.Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(batch.labels), 3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        batch = SimpleNamespace(labels=torch.tensor([0, 0, 0, 2]))
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def test_confusion_matrix_has_a_row_for_each_label_and_a_column_for_each_prediction(tmp_path: Path) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    L.Trainer(max_epochs=1, callbacks=[ValidationPredictions()], logger=logger, **quiet).fit(AlwaysOne())
    confusion = read_run(tmp_path / "run", "run").data["validation/confusion_matrix_data"]
    assert confusion["counts"] == [[0, 3, 0], [0, 0, 0], [0, 1, 0]]
    zero, one, two = confusion["class_names"]
    assert ConfusionMatrix(**confusion).most_confused(2) == [(zero, one, 3, 1.0), (two, one, 1, 1.0)]


def test_top_losses_are_the_highest_first(run: Run) -> None:
    losses = [entry["loss"] for entry in run.data["validation/top_losses_data"]]
    assert len(losses) == 9
    assert losses == sorted(losses, reverse=True)
    assert sum(losses) / 9 == pytest.approx(run.last("val/loss"), rel=1e-4)


def test_pictures_are_there(run: Run) -> None:
    validation = {f"validation/{name}" for name in ("confusion_matrix", "reliability", "top_losses")}
    others = {"training/examples", "attribution/grad_cam", "phase/timeline", "change/layer_groups"}
    assert set(run.images) == others | validation


@pytest.mark.parametrize("examples", [7, 500])
def test_projector_has_the_sample_before_and_after(examples: int, image_folder: Path) -> None:
    main(fit_arguments(image_folder, *UNBOUNDED, "--dashboards.embeddings", str(examples)))
    points_expected = min(examples, 9)
    folder = run_folder()
    for name in ("before", "after"):
        points = [line.split("\t") for line in (folder / "projector" / name / "points.tsv").read_text().splitlines()]
        assert [len(point) for point in points] == [points_expected] * points_expected
        labels = (folder / "projector" / name / "metadata.tsv").read_text().splitlines()
        assert labels[0] == "label\ttext"
        assert {label.strip() for label in labels[1:]} <= {"class0", "class1", "class2"}
        assert (folder / "projector" / name / "sprite.png").exists()
    before, after = ((folder / "projector" / name / "points.tsv").read_text() for name in ("before", "after"))
    assert before != after
    assert (folder / "projector_config.pbtxt").read_text().count("embeddings {") == 2


def test_projector_has_the_sample_as_it_is(image_folder: Path) -> None:
    augmentation = "--data.augmentation", "Augmentation", "--data.augmentation.crop_padding", "8"
    points = []
    for flags in ((), augmentation):
        main(fit_arguments(image_folder, *UNBOUNDED, "--dashboards.embeddings", "9", *flags))
        points.append((run_folder() / "projector" / "before" / "points.tsv").read_text())
    assert points[0] == points[1]


def test_network_that_looks_twice_is_shown_by_its_first_look(image_folder: Path) -> None:
    flags = [
        *UNBOUNDED,
        "--model.network",
        "FastCNN",
        "--model.network.widths",
        "[8, 8, 8]",
        "--model.network.test_views",
        "mirror",
    ]
    main(fit_arguments(image_folder, *flags))
    assert (run_folder() / "projector" / "after" / "points.tsv").exists()
    assert "attribution/grad_cam" in read_run(run_folder(), "run").images


def test_run_is_described_by_what_sets_it_apart(run: Run) -> None:
    described = run.data["run/hyperparameters"]
    assert described["strategy"] == "gradual_discriminative"
    assert described["seed"] == 0
    assert described["training examples"] == 81
    assert described["network"] == "SeedCNN"
    card = run.data["run/card_data"]
    assert "phase" in card["plan"].splitlines()[0]
    assert "lr_decay: 2" in card["configuration"]


@pytest.mark.parametrize(
    ("flags", "gone"),
    [
        (
            ["--dashboards", "null"],
            ["lr/", "speed/", "phase/timeline", "validation/", "attribution/", "training/", "run/"],
        ),
        (["--dashboards.scalars", "false"], ["lr/", "speed/", "gradient_norm/"]),
        (["--dashboards.timeline", "false"], ["phase/timeline"]),
        (["--dashboards.predictions", "false"], ["validation/"]),
        (["--dashboards.attributions", "false"], ["attribution/"]),
    ],
)
def test_each_dashboard_can_be_switched_off(flags: list[str], gone: list[str], image_folder: Path) -> None:
    main(fit_arguments(image_folder, *UNBOUNDED, *flags))
    run = read_run(run_folder(), "run")
    tags = [*run.scalars, *run.images, *run.data]
    assert "val/loss" in tags
    assert not [tag for tag in tags if tag.startswith(tuple(gone))]


def test_training_is_bit_equal_with_and_without_dashboards(image_folder: Path) -> None:
    states = []
    for flags in (["--dashboards", "null"], [*OFTEN, *UNBOUNDED]):
        main(fit_arguments(image_folder, *UNFREEZING, *flags, "--trainer.max_epochs", "2"))
        checkpoint = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
        states.append((checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"]))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_module_without_a_forward_trains_without_pictures_of_it(tmp_path: Path) -> None:
    class Own(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3 * 32 * 32, 10)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.head(batch.images.flatten(1)), batch.labels)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logger = TensorBoardLogger(tmp_path, "own", "")
    callbacks = Dashboards(share=None).callbacks({}, "")
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=logger, callbacks=callbacks, **quiet)
    trainer.fit(Own(), datamodule=DemoImages(examples_per_class=4, batch_size=8))
    assert trainer.state.finished


def test_drawings_of_the_timeline_grow_more_slowly_than_the_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deep(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(20)))
            self.layer_groups = [f"layers.{number}" for number in range(20)]

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.layers(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    drawn: list[int] = []
    monkeypatch.setattr(training_curves, "add_picture", lambda writer, tag, pixels, step: drawn.append(step))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    module = Deep()
    callbacks = [ProgressiveUnfreezing(module.layer_groups, until={"steps": 1}), training_curves.UnfreezingTimeline()]
    logger = TensorBoardLogger(tmp_path, "deep", "")
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=logger, callbacks=callbacks, **quiet)
    trainer.fit(module, DataLoader(torch.randn(48, 4), batch_size=2))
    assert drawn == [*range(8), 15, 23]  # eight phases, the sixteenth and the end


def test_every_n_steps_below_one_is_refused(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(fit_arguments(image_folder, "--dashboards.every_n_steps", "0"))
    assert "dashboards.every_n_steps is 0: expected 1 or more" in capsys.readouterr().err


def test_resumed_run_continues_curves_and_timeline_where_the_checkpoint_stood(image_folder: Path) -> None:
    keep = ["--checkpoint.filename", "{epoch}", "--checkpoint.save_top_k", "-1", "--trainer.max_epochs", "3"]
    arguments = fit_arguments(image_folder, *UNFREEZING, *OFTEN, *keep, "--version", "run")
    main([*arguments, "--experiment", "whole"])
    main([*arguments, "--experiment", "interrupted"])  # its events go on after the checkpoint
    main([*arguments, "--experiment", "interrupted", "--ckpt_path", "logs/interrupted/run/checkpoints/epoch=0.ckpt"])
    whole, resumed = (read_run(Path("logs", name, "run"), name) for name in ("whole", "interrupted"))
    assert set(resumed.scalars) == set(whole.scalars)
    for tag, points in whole.scalars.items():
        assert [step for step, _ in resumed.scalars[tag]] == [step for step, _ in points], tag
        if not tag.startswith("speed/"):
            assert resumed.scalars[tag] == points, tag
    assert resumed.data["phase/timeline_data"] == whole.data["phase/timeline_data"]


def steps_shown(folder: Path) -> dict[str, list[int]]:
    """The steps of each curve as TensorBoard itself reads them: it ignores the first START, unlike the reports."""
    guidance = plugin_event_accumulator.STORE_EVERYTHING_SIZE_GUIDANCE
    events = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance=guidance)
    events.Reload()
    return {tag: [event.step for event in events.Tensors(tag)] for tag in events.PluginTagToContent("scalars")}


@pytest.mark.parametrize("dashboards", [OFTEN, ("--dashboards", "null", "--trainer.log_every_n_steps", "3")])
@pytest.mark.parametrize("start", [("--ckpt_path", "logs/again/run/checkpoints/epoch=0.ckpt"), ()])
def test_curves_of_a_run_fitted_again_in_its_folder_do_not_jump_back(
    start: tuple[str, ...], dashboards: tuple[str, ...], image_folder: Path
) -> None:
    keep = ("--checkpoint.filename", "{epoch}", "--checkpoint.save_top_k", "-1", "--version", "run")
    arguments = fit_arguments(image_folder, *dashboards, *keep)
    main([*arguments, "--experiment", "once", "--trainer.max_epochs", "2"])
    main([*arguments, "--experiment", "again", "--trainer.max_epochs", "3"])  # one epoch more than what comes after
    if not start:  # as if it had died before its first checkpoint
        Path("logs/again/run/results.json").unlink()
        shutil.rmtree("logs/again/run/checkpoints")
    main([*arguments, "--experiment", "again", "--trainer.max_epochs", "2", *start])
    once, again = Path("logs", "once", "run"), Path("logs", "again", "run")
    assert steps_shown(once)["val/loss"] == [8, 17]
    assert steps_shown(again) == steps_shown(once)
    reported = {tag: [step for step, _ in points] for tag, points in read_run(again, "run").scalars.items()}
    assert reported == steps_shown(once)


class FlushThenDie(L.Callback):
    """Writes everything out after step 4, and kills the process after step 6."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.loggers[0].experiment.flush()  # type: ignore[attr-defined]
        if trainer.global_step == 6:
            os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_events_of_a_killed_run_are_readable_to_the_last_flush(image_folder: Path) -> None:
    callback = json.dumps({"class_path": "test_dashboards.FlushThenDie"})
    arguments = fit_arguments(image_folder, *OFTEN, "--trainer.callbacks+", callback)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "lightning_transfer", *arguments]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == -9
    run = read_run(run_folder(), "killed")
    assert [step for step, _ in run.scalars["lr/head"]][:3] == [0, 1, 2]
    main(["report", str(run_folder())])
    assert "learning rate" in (run_folder() / "report.html").read_text()


class Line(L.LightningModule):
    """A linear layer with known gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 1)
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.head(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        weights = torch.cat([parameter.detach().flatten() for parameter in self.parameters()])
        gradient = torch.cat([parameter.grad.flatten() for parameter in self.parameters()])
        self.seen.append((gradient.norm().item(), 0.1 * gradient.norm().item() / weights.norm().item()))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_gradient_norm_and_update_ratio_are_those_of_the_optimizer_step(accumulate: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = Line(), torch.utils.data.TensorDataset(torch.randn(24, 3))
    trainer = L.Trainer(
        max_epochs=1,
        logger=TensorBoardLogger(tmp_path, "", ""),
        callbacks=[TrainingScalars(every_n_steps=1)],
        accumulate_grad_batches=accumulate,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    run = read_run(tmp_path, "run")
    assert len(module.seen) == math.ceil(6 / accumulate)  # the last step of an epoch may be of fewer batches
    assert values(run, "gradient_norm/head") == pytest.approx([norm for norm, _ in module.seen], rel=1e-5)
    assert values(run, "update_ratio/head") == pytest.approx([ratio for _, ratio in module.seen], rel=1e-4)


@pytest.mark.slow
def test_two_processes_write_once_what_one_process_writes(image_folder: Path) -> None:
    for processes in (1, 2):
        arguments = fit_arguments(image_folder, *UNFREEZING, *OFTEN, *UNBOUNDED, "--experiment", str(processes))
        arguments += ["--data.batch_size", "10", "--trainer.devices", str(processes), "--trainer.max_epochs", "2"]
        if processes == 1:
            main(arguments)
            continue
        arguments += ["--trainer.strategy", "ddp"]
        command = [sys.executable, "-m", "lightning_transfer", *arguments]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    folders = [Path("logs", name, "version_0") for name in ("1", "2")]
    one, two = (read_run(folder, folder.parent.name) for folder in folders)
    assert len(list(folders[1].glob("events*"))) == len(list(folders[0].glob("events*")))
    assert two.data["validation/confusion_matrix_data"] == one.data["validation/confusion_matrix_data"]
    assert [e["loss"] for e in two.data["validation/top_losses_data"]] == pytest.approx(
        [e["loss"] for e in one.data["validation/top_losses_data"]], abs=1e-5
    )
    assert two.data["phase/timeline_data"] == one.data["phase/timeline_data"]
    assert set(two.scalars) == set(one.scalars)
    for tag, points in one.scalars.items():
        if not tag.startswith("speed/"):
            assert [step for step, _ in two.scalars[tag]] == [step for step, _ in points], tag
            assert values(two, tag) == pytest.approx(values(one, tag), rel=1e-3, abs=1e-6), tag


def graph_of(network: torch.nn.Module, inputs: torch.Tensor) -> None:
    Boards([TensorBoardLogger("logs")]).add_graph(network, inputs)


def classes() -> int:
    gc.collect()
    return sum(isinstance(it, type) for it in gc.get_objects())


def test_graphs_of_many_runs_leave_nothing_in_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit._recursive, "concrete_type_store", torch.jit._recursive.ConcreteTypeStore())
    network, inputs = SeedCNN(3).eval(), torch.zeros(1, 3, 32, 32)
    graph_of(network, inputs)
    kept = torch.jit._recursive.concrete_type_store.methods_compiled
    before = classes()
    graph_of(network, inputs)
    assert classes() == before
    assert not kept


def test_graph_is_drawn_by_a_torch_without_the_members_that_forget_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_jit_clear_class_registry")
    logger = TensorBoardLogger("logs")
    Boards([logger]).add_graph(SeedCNN(3).eval(), torch.zeros(1, 3, 32, 32))
    logger.experiment.flush()
    [events] = Path(logger.log_dir).glob("events*")
    assert b"convolution1" in events.read_bytes()


def test_graph_leaves_other_traced_modules_as_they_are() -> None:
    network, inputs = SeedCNN(3).eval(), torch.ones(1, 3, 32, 32)
    traced = torch.jit.trace(network, inputs)  # type: ignore[no-untyped-call]
    graph_of(network, inputs)
    assert torch.equal(traced(inputs), network(inputs))
