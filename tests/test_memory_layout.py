"""``model.channels_last: auto``: measured once for a network, remembered, alike on all ranks and after a resume."""

import json
import logging
import random
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pytest
import torch
from conftest import fit_arguments
from launching import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule
from test_training import equal, trainer, weights
from torch import Tensor, nn

from lightning_transfer import (
    Classifier,
    DemoImages,
    DemoTexts,
    LSTMClassifier,
    MultiTaskDataModule,
    MultiTaskModule,
    SeedCNN,
    SelfSupervisedModule,
    Views,
    load,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.errors import UserError
from lightning_transfer.modules import memory_layout

LINES = "lightning.pytorch.utilities.rank_zero"


class Watch:
    """Takes the place of the measurement: tells what it is told, and counts how often it is asked."""

    def __init__(self) -> None:
        self.seconds, self.asked = {"contiguous": 1.0, "channels_last": 0.5}, 0

    def __call__(self, *_: Any) -> dict[str, float]:
        self.asked += 1
        return self.seconds


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The measurement, with a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(memory_layout, "measured_seconds", found := Watch())
    return found


def fitted(
    folder: Path,
    network: nn.Module | None = None,
    ckpt_path: Path | None = None,
    channels_last: bool | Literal["auto"] = "auto",
    **options: Any,
) -> Classifier:
    L.seed_everything(0, verbose=False)
    module = Classifier(network or SeedCNN(10), 10, optimizer=torch.optim.Adam, channels_last=channels_last)
    data = DemoImages("source", examples_per_class=12, batch_size=30)
    settings = {"max_steps": 1, "limit_val_batches": 0, **options}
    trainer(folder, **settings).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def is_laid_out(tensors: Any) -> bool:
    """Whether the convolutions have their channels last, all or none."""
    [found] = {one.is_contiguous(memory_format=torch.channels_last) for one in tensors if one.ndim == 4}
    return found


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, True), (0.94, True), (0.96, False), (2.0, False)])
def test_faster_layout_is_taken_and_told_where_it_saves_five_percent(
    seconds: float, chosen: bool, watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch.seconds["channels_last"] = seconds
    with caplog.at_level(logging.INFO, LINES):
        module = fitted(tmp_path)
    assert is_laid_out(module.parameters()) is chosen
    [line] = [message for message in caplog.messages if "channels_last" in message]
    assert line == (
        f"channels_last: auto chose {str(chosen).lower()}: with channels last a step of the network takes"
        f" {seconds:.2f} times as long (32 images of 3 x 32 x 32)"
    )


def multitask() -> tuple[L.LightningModule, L.LightningDataModule]:
    tasks = {name: DemoImages("source", examples_per_class=12, batch_size=30) for name in ("one", "two")}
    return MultiTaskModule(SeedCNN(20), {"one": 10, "two": 10}, channels_last="auto"), MultiTaskDataModule(tasks)


def self_supervised() -> tuple[L.LightningModule, L.LightningDataModule]:
    data = DemoImages("source", examples_per_class=12, batch_size=30, views=Views())
    return SelfSupervisedModule(SeedCNN(10), 10, channels_last="auto"), data


@pytest.mark.parametrize("make", [multitask, self_supervised])
def test_other_modules_of_images_choose_too(make: Any, watch: Watch, tmp_path: Path) -> None:
    module, data = make()
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    assert is_laid_out(module.parameters())


def test_layout_is_measured_once_for_a_network_and_a_precision(watch: Watch, tmp_path: Path) -> None:
    for _ in range(2):
        assert fitted(tmp_path).is_channels_last
    assert watch.asked == 1
    fitted(tmp_path, precision="bf16-mixed")
    assert watch.asked == 2
    fitted(tmp_path, network=nn.Sequential(SeedCNN(12), nn.Linear(12, 10)))
    assert watch.asked == 3


@pytest.mark.parametrize(
    "content",
    [
        *("", "[", "[1.0, 0.5]", "{}", pytest.param("[" * 100_000, id="nested")),
        *(
            f'{{"contiguous": {bad}, "channels_last": 0.5}}'
            for bad in ("0.0", "-1.0", "NaN", "1e999", '"1.0"', "[1.0]")
        ),
    ],
)
def test_memory_that_is_damaged_or_foreign_is_measured_again(content: str, watch: Watch, tmp_path: Path) -> None:
    fitted(tmp_path)
    [file] = (tmp_path / "cache/layouts").glob("*.json")
    file.write_text(content)
    watch.seconds = {"contiguous": 1.0, "channels_last": 2.0}
    assert not fitted(tmp_path).is_channels_last
    assert watch.asked == 2
    assert json.loads(file.read_text()) == watch.seconds


def test_resumed_run_keeps_the_layout_of_its_checkpoint_and_equals_the_uninterrupted_one(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    whole = fitted(tmp_path, max_steps=6, callbacks=[snapshots], enable_checkpointing=True)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "another"))
    watch.seconds["channels_last"] = 2.0
    with caplog.at_level(logging.INFO, LINES):
        resumed = fitted(tmp_path, max_steps=6, ckpt_path=tmp_path / "step=3.ckpt")
    assert "channels_last: auto keeps true, which the checkpoint has" in caplog.messages
    assert equal(weights(resumed), weights(whole))
    assert is_laid_out(resumed.parameters())
    state = resumed.trainer.optimizers[0].state
    assert is_laid_out(state[p]["exp_avg"] for p in resumed.parameters())


def test_evaluation_measures_nothing_and_takes_the_layout_of_the_checkpoint(watch: Watch, tmp_path: Path) -> None:
    fitted(tmp_path).trainer.save_checkpoint(tmp_path / "last.ckpt")
    watch.asked = 0
    for file, laid_out in ((None, False), (tmp_path / "last.ckpt", True)):
        module = Classifier(SeedCNN(10), 10, channels_last="auto")
        data = DemoImages("source", examples_per_class=12, batch_size=30)
        trainer(tmp_path).validate(module, datamodule=data, ckpt_path=file, verbose=False)
        assert is_laid_out(module.parameters()) is laid_out
    assert watch.asked == 0


@pytest.mark.parametrize("saved", ["yes", 1, [True], None])
def test_what_is_no_layout_in_a_checkpoint_changes_nothing(saved: object, watch: Watch, tmp_path: Path) -> None:
    watch.seconds["channels_last"] = 2.0
    module = fitted(tmp_path)
    module.on_load_checkpoint({"channels_last": saved})
    assert not is_laid_out(module.parameters())


def test_network_without_convolutions_stays_as_it_is_unmeasured(watch: Watch, tmp_path: Path) -> None:
    data = DemoTexts("source", examples_per_class=12, batch_size=12)
    network = LSTMClassifier(vocabulary_size=data.vocabulary_size, num_classes=data.num_classes, hidden_size=8)
    module = Classifier(network, data.num_classes, channels_last="auto")
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    assert (module.is_channels_last, watch.asked) == (False, 0)


def test_data_that_do_not_tell_the_shape_of_their_images_are_refused(watch: Watch, tmp_path: Path) -> None:
    module = Classifier(SeedCNN(10), 10, channels_last="auto")
    with pytest.raises(UserError, match=r"channels_last is auto, and BoringDataModule has no image_shape: give it one"):
        trainer(tmp_path).fit(module, datamodule=BoringDataModule())


class Noted(nn.Module):
    """A network with statistics and randomness that notes how it is called, in copies too."""

    calls: list[tuple[bool, torch.dtype, torch.Size, bool]] = []  # noqa: RUF012  # copies share it

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        random.random(), np.random.random()
        features = nn.functional.dropout(self.norm(self.convolution(images)), training=self.training)
        laid_out = is_laid_out([self.convolution.weight])
        self.calls.append((laid_out, self.convolution(images).dtype, images.shape, self.norm.weight.requires_grad))
        return features.mean((2, 3))


def test_measurement_passes_a_copy_in_both_layouts_and_leaves_no_trace(tmp_path: Path) -> None:
    network = Noted().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generators = [torch.get_rng_state(), random.getstate(), str(np.random.get_state())]
    Noted.calls.clear()
    runner = trainer(tmp_path, precision="bf16-mixed")
    seconds = memory_layout.measured_seconds(network, torch.Size([7, 3, 20, 24]), runner)
    assert seconds.keys() == {"contiguous", "channels_last"}
    assert all(value > 0 for value in seconds.values())
    assert len(Noted.calls) >= 6
    assert {laid_out for laid_out, *_ in Noted.calls[::2]} == {False}
    assert {laid_out for laid_out, *_ in Noted.calls[1::2]} == {True}
    assert {tuple(how) for _, *how in Noted.calls} == {(torch.bfloat16, torch.Size([7, 3, 20, 24]), True)}
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert [random.getstate(), str(np.random.get_state())] == generators[1:]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())


def test_command_measures_by_itself_records_its_choice_and_a_program_loads_it(
    image_folder: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(own_folder / "cache"))
    main([*fit_arguments(image_folder, "--model.channels_last", "auto"), "--version", "run"])
    [file] = (own_folder / "cache/layouts").glob("*.json")
    seconds = json.loads(file.read_text())
    run = own_folder / "logs/default/run"
    chosen = json.loads((run / "results.json").read_text())["channels_last"]
    assert chosen is (seconds["channels_last"] <= 0.95 * seconds["contiguous"])
    monkeypatch.setattr(memory_layout, "measured_seconds", None)
    [member] = load(run).members
    assert is_laid_out(member.module.parameters()) is chosen


@pytest.mark.slow
def test_two_processes_take_what_the_first_has_measured(tmp_path: Path) -> None:
    first, second = run_ranks("layout_ranks.py", tmp_path)
    assert first.keys() == second.keys()
    assert (first["asked"], second["asked"]) == (1, 0)
    for found in (first, second):
        assert is_laid_out(found["ddp"].values())
        assert not is_laid_out(found["sharded"].values())
        assert not is_laid_out(found["sharded though asked for"].values())
    assert all(torch.equal(value, second["ddp"][name]) for name, value in first["ddp"].items())
