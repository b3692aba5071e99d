"""What keeps a training step cheap, and that none of it is lost on those who ask for more."""

from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import fit_arguments, run_folder
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.profilers import PassThroughProfiler

from lightning_transfer import Classifier
from lightning_transfer.cli.entry import main
from lightning_transfer.lightning_internals import SilentProfiler, shorten_steps

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}


def test_silent_profiler_gives_a_context_and_no_generator() -> None:
    profiler = SilentProfiler()
    with profiler.profile("one"), profiler.profile("within another"):
        pass
    assert isinstance(profiler.profile("one"), nullcontext)
    assert isinstance(profiler, PassThroughProfiler)


def test_profiler_that_is_asked_for_reports(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--trainer.profiler", "SimpleProfiler", "--trainer.profiler.filename", "actions"))
    [report] = run_folder().glob("*actions*.txt")
    assert "run_training_batch" in report.read_text()


class CountsSteps(L.Callback):
    """Has one of a step's hooks, and gets another by assignment."""

    def __init__(self) -> None:
        self.batches = self.backwards = 0
        self.on_after_backward = self.count

    def count(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.backwards += 1

    def on_train_batch_end(self, *arguments: object) -> None:
        self.batches += 1


class IndexedModel(BoringModel):
    """Asks for the number of a batch, and has one of a step's hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[int] = []
        self.ends = 0

    def training_step(self, batch: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
        self.indices.append(number)
        return super().training_step(batch, number)

    def on_train_batch_end(self, *arguments: object) -> None:
        self.ends += 1


class UnindexedModel(IndexedModel):
    def training_step(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().training_step(batch, -1)


@pytest.mark.parametrize(("model", "indices"), [(IndexedModel, [0, 1, 2]), (UnindexedModel, [-1, -1, -1])])
def test_only_hooks_that_do_nothing_are_skipped(model: type[IndexedModel], indices: list[int]) -> None:
    counter, module = CountsSteps(), model()
    trainer = L.Trainer(max_steps=3, accelerator="cpu", callbacks=[counter], **QUIET)
    shorten_steps(trainer, module, None)
    trainer.fit(module)
    assert (counter.batches, counter.backwards, module.ends) == (3, 3, 3)
    assert counter.on_train_batch_start is None
    assert module.on_train_batch_start is None
    assert module.indices == indices


def test_clipping_that_a_user_has_assigned_is_kept() -> None:
    for module in (BoringModel(), Classifier(torch.nn.Linear(32, 2), 2)):
        clipped: list[object] = []
        module.configure_gradient_clipping = lambda *given, clipped=clipped, **named: clipped.append(given)
        trainer = L.Trainer(max_steps=3, accelerator="cpu", **QUIET)
        shorten_steps(trainer, module, None)
        assert callable(module.configure_gradient_clipping)
        module.configure_gradient_clipping()
        assert len(clipped) == 1


class ClearsItself(torch.optim.SGD):
    """Has something of its own to do where gradients are cleared."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.cleared += 1
        super().zero_grad(set_to_none)


def test_optimizer_with_a_way_to_clear_gradients_clears_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = BoringModel()
    optimizer = ClearsItself(module.parameters(), lr=0.1)
    monkeypatch.setattr(module, "configure_optimizers", lambda: optimizer)
    trainer = L.Trainer(max_steps=3, accelerator="cpu", profiler=SilentProfiler(), **QUIET)
    shorten_steps(trainer, module, None)
    trainer.fit(module)
    assert optimizer.cleared == 3


class LogsNowAndThen(BoringModel):
    """Logs in every other step, and gives its loss as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[object] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:  # type: ignore[override]
        loss: torch.Tensor = super().training_step(batch, batch_idx)["loss"]
        if batch_idx % 2:
            self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        self.log("val", super().validation_step(batch, batch_idx)["x"], on_step=True, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        # What Lightning takes for the size of a batch here, after the last of them.
        self.batch_sizes += [self.trainer._results.batch_size, self.trainer._results.batch is None]


class BoringData(L.LightningDataModule):
    """Changes batches as they come to the device."""

    def train_dataloader(self) -> torch.utils.data.DataLoader[torch.Tensor]:
        return BoringModel().train_dataloader()

    def val_dataloader(self) -> torch.utils.data.DataLoader[torch.Tensor]:
        return BoringModel().val_dataloader()

    def on_after_batch_transfer(self, batch: torch.Tensor, dataloader_idx: int) -> torch.Tensor:
        return 2 * batch


class SeesMetrics(L.Callback):
    """Notes the metrics after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: object) -> None:
        self.seen.append(dict(trainer.callback_metrics))

    def on_validation_batch_end(self, trainer: L.Trainer, *arguments: object) -> None:
        self.seen.append(dict(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.seen.append(dict(trainer.callback_metrics))


@pytest.mark.parametrize(("clip", "accumulated"), [(None, 1), (0.01, 2)])
def test_shortened_fit_equals_a_whole_one(clip: float | None, accumulated: int, tmp_path: Path) -> None:
    results = []
    for shorten in (False, True):
        L.seed_everything(0, verbose=False)
        module, data, metrics = LogsNowAndThen(), BoringData(), SeesMetrics()
        checkpoints = ModelCheckpoint(tmp_path / str(shorten), every_n_train_steps=3, save_top_k=-1)
        best = ModelCheckpoint(tmp_path / str(shorten), filename="best", monitor="loss", enable_version_counter=False)
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            max_epochs=2,
            limit_train_batches=5,
            limit_val_batches=3,
            num_sanity_val_steps=0,
            accelerator="cpu",
            callbacks=[metrics, checkpoints, best],
            gradient_clip_val=clip,
            accumulate_grad_batches=accumulated,
            profiler=SilentProfiler(),
            logger=False,
            enable_progress_bar=False,
        )
        if shorten:
            shorten_steps(trainer, module, data)
        trainer.fit(module, datamodule=data)
        files = sorted(path.name for path in tmp_path.glob(f"{shorten}/*"))
        results.append((module.state_dict(), metrics.seen, [*files, *module.batch_sizes]))
    (weights, seen, others), (shortened_weights, shortened_seen, shortened_others) = results
    torch.testing.assert_close(shortened_weights, weights, rtol=0, atol=0)
    torch.testing.assert_close(shortened_seen, seen, rtol=0, atol=0)
    assert shortened_others == others
    assert files


def test_step_reads_no_tensor(monkeypatch: pytest.MonkeyPatch, image_folder: Path) -> None:
    read = []

    def item(tensor: torch.Tensor) -> float:
        read.append(tensor)
        return tensor.tolist()

    original = Classifier.training_step

    def training_step(self: Classifier, *batch: object) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", item)
            return original(self, *batch)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    main(fit_arguments(image_folder, "--trainer.log_every_n_steps", "2"))
    assert not read


def test_step_leaves_nothing_behind_for_accelerators_that_are_not_in_use(image_folder: Path) -> None:
    # torch.manual_seed in every step would: a memory leak, and most of a small step's time.
    before = len(torch.cuda._queued_calls)
    main(fit_arguments(image_folder))
    assert len(torch.cuda._queued_calls) - before < 5
