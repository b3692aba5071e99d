"""What dashboards may cost: a share of the seconds of training, on a clock of the tests' own."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import fit_arguments, run_folder
from launching import run_ranks
from lightning.pytorch.loggers import TensorBoardLogger
from test_cli import error_line

from lightning_transfer import Classifier, DemoImages, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards import budget as budgets, embeddings, events, settings
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import Boards
from lightning_transfer.dashboards.settings import Dashboards
from lightning_transfer.dashboards.starting_weights import StartingWeights
from lightning_transfer.report.run_files import Run, read_run

SHARE = 0.03
TIMED = 0.8 * SHARE
OF_VALIDATION = {f"validation/{name}" for name in ("confusion_matrix", "reliability", "top_losses")}
DRAWN = {"training/examples", "attribution/grad_cam", "phase/timeline", "change/layer_groups"} | OF_VALIDATION


class Clock:
    """Stands still unless it is told that seconds pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> np.ndarray:
        return np.array([self.now])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(budgets, "rank_zero_info", lines.append)
    return lines


def begun(clock: Clock, share: float | None = SHARE, batch_size: int = 10) -> tuple[Budget, Any]:
    """A budget at the start of a training, and the trainer, whose steps the test counts."""
    steps = SimpleNamespace(total_batch_idx=-1)
    trainer: Any = SimpleNamespace(loggers=[object()], world_size=1, fit_loop=SimpleNamespace(epoch_loop=steps))
    budget, module = Budget(share, clock), L.LightningModule()
    budget.on_train_start(trainer, module)
    budget.on_train_batch_start(trainer, module, torch.zeros(batch_size, 1), 0)
    return budget, trainer


def draw(budget: Budget, clock: Clock, kind: str, takes: float, examples: int = 0) -> bool:
    with budget.drawing(kind, examples) as is_drawn:
        clock.now += takes if is_drawn else 0
    return is_drawn


def end(budget: Budget, trainer: Any) -> None:
    budget.on_train_end(trainer, L.LightningModule())


def test_share_is_never_exceeded_and_most_of_it_is_kept_for_the_end(clock: Clock) -> None:
    budget, trainer = begun(clock)
    drawn = 0
    for _ in range(1000):
        clock.now += 1
        drawn += draw(budget, clock, "picture", 0.08)
        assert budget.spent <= TIMED / 4 * budget.training
    assert drawn == pytest.approx(1000 * TIMED / 4 / 0.08, abs=1)
    end(budget, trainer)
    while draw(budget, clock, "picture", 0.08):
        drawn += 1
    assert budget.spent <= TIMED * budget.training
    assert drawn == pytest.approx(1000 * TIMED / 0.08, abs=1)


def test_drawing_that_took_longer_than_expected_is_earned_twice_before_the_next_of_its_kind(clock: Clock) -> None:
    budget, _ = begun(clock)
    clock.now += 20
    assert draw(budget, clock, "slow", 6)
    while not draw(budget, clock, "slow", 6):
        clock.now += 1
    assert budget.training == pytest.approx((6 + 6) / (TIMED / 4), abs=2)


def test_bound_holds_on_each_clock() -> None:
    """Training that waits, as for a disk, takes no CPU time."""
    both = np.zeros(2)
    budget, trainer = begun(lambda: both.copy())  # type: ignore[arg-type]
    end(budget, trainer)
    both += (100, 2)
    with budget.drawing("picture") as is_drawn:
        assert not is_drawn
    both += (0, 8)
    with budget.drawing("picture") as is_drawn:
        assert is_drawn


def test_what_is_counted_leaves_less_for_pictures(clock: Clock) -> None:
    budget, _ = begun(clock)
    clock.now += 100
    with budget.counted():
        clock.now += 0.55
    assert budget.training == pytest.approx(100)
    assert not draw(budget, clock, "picture", 0.08)
    clock.now += 10
    assert draw(budget, clock, "picture", 0.08)


def test_first_pass_is_expected_to_take_a_step_of_the_share_or_as_many_as_it_has_batches(clock: Clock) -> None:
    budget, trainer = begun(clock, batch_size=10)
    for examples, seconds in ((20, 0.5), (10, 0.25), (1, 0.25)):  # a quarter of steps of 1 s, of a quarter of the share
        steps = round((seconds + 0.08) / (TIMED / 4))
        clock.now, trainer.fit_loop.epoch_loop.total_batch_idx = steps - 1, steps - 2
        assert not draw(budget, clock, f"pass over {examples}", 0, examples)
        clock.now, trainer.fit_loop.epoch_loop.total_batch_idx = steps + 1, steps
        assert draw(budget, clock, f"pass over {examples}", 0, examples)
    end(budget, trainer)
    clock.now, trainer.fit_loop.epoch_loop.total_batch_idx = 44, 43
    assert not draw(budget, clock, "pass at the end", 0, 1)
    clock.now, trainer.fit_loop.epoch_loop.total_batch_idx = 46, 45
    assert draw(budget, clock, "pass at the end", 0, 1)


def test_pass_is_expected_to_take_the_last_one_at_least_and_as_much_more_as_it_has_more_examples(clock: Clock) -> None:
    budget, trainer = begun(clock)
    end(budget, trainer)
    clock.now = 125
    with budget.passing(8):
        clock.now += 1
    assert draw(budget, clock, "fewer", 0, 1)
    assert draw(budget, clock, "more", 0, 23)
    assert not draw(budget, clock, "too many", 0, 24)


def test_nothing_runs_the_network_before_a_step_has_told_what_that_takes(clock: Clock) -> None:
    budget, _ = begun(clock)
    clock.now += 1e6
    assert not draw(budget, clock, "pass", 0, 1)


def test_passes_grow_while_they_are_afforded_and_stop_at_half_of_what_is_left(clock: Clock) -> None:
    budget, trainer = begun(clock, batch_size=8)
    clock.now, trainer.fit_loop.epoch_loop.total_batch_idx = 1100, 1099
    end(budget, trainer)
    sizes = []
    with budget.counted():
        for rows in budget.pieces(500):
            sizes.append(rows.stop - rows.start)
            clock.now += 0.1 * sizes[-1]
    assert sizes == [8, 16, 32, 64]  # 26.4 s are left; the next would end after 18.4 s of 13.2
    assert budget.affordable(500) == 125
    assert budget.affordable(500, passes=2) == 62


def test_what_was_put_off_is_named_only_where_it_was_never_afforded(clock: Clock, said: list[str]) -> None:
    budget, trainer = begun(clock)
    assert not draw(budget, clock, "first", 0.05)
    assert not draw(budget, clock, "second", 0.05)
    clock.now += 4
    end(budget, trainer)
    assert draw(budget, clock, "first", 0.08)
    assert not draw(budget, clock, "second", 0.08)
    with budget.drawing("what there is none of", is_wanted=False) as is_drawn:
        assert not is_drawn
    budget.on_fit_end(trainer, L.LightningModule())
    [line] = said
    assert "left out second: they may take 3 % of the training's 4.0 s; --dashboards.share null draws all" in line


def test_no_bound_draws_all_and_says_nothing(clock: Clock, said: list[str]) -> None:
    budget, trainer = begun(clock, share=None)
    assert all(draw(budget, clock, "slow", 100, examples=1000) for _ in range(3))
    assert [rows.stop for rows in budget.pieces(100)] == [8, 24, 56, 100]
    assert budget.affordable(500) == 500
    budget.on_fit_end(trainer, L.LightningModule())
    assert not said


@pytest.mark.parametrize("share", ["-0.1", "1.5"])
def test_share_that_is_none_is_refused(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "fit", "--config", "configs/quickstart.yaml", "--dashboards.share", share)
    assert "dashboards.share is" in line
    assert "expected 0 to 1, such as 0.03, or null for no bound" in line


class SlowNetwork(SeedCNN):
    """Takes seconds for each call and for each example."""

    def __init__(self, clock: Clock, call_seconds: float, example_seconds: float) -> None:
        super().__init__(10)
        self.clock, self.call_seconds, self.example_seconds = clock, call_seconds, example_seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.call_seconds + self.example_seconds * len(images)
        return super().forward(images)


def fit_slowly(
    folder: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, share: float | None, *seconds: float
) -> tuple[Budget, Run]:
    """Four epochs of twelve steps; drawing a picture takes 0.05 s, the graph 0.3 s and a set of points 0.1 s."""

    def slowly(act: Any, takes: float) -> Any:
        def slow(*arguments: Any) -> Any:
            clock.now += takes
            return act(*arguments)

        return slow

    monkeypatch.setattr(events, "png", slowly(events.png, 0.05))
    monkeypatch.setattr(Boards, "add_graph", slowly(Boards.add_graph, 0.3))
    monkeypatch.setattr(embeddings, "write_embedding", slowly(embeddings.write_embedding, 0.1))
    monkeypatch.setattr(settings, "Budget", partial(Budget, clock=clock))
    callbacks = Dashboards(share=share).callbacks({}, "")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=4, logger=TensorBoardLogger(folder, "", ""), callbacks=callbacks, **quiet
    )
    data = DemoImages(examples_per_class=12, batch_size=10, validation_fraction=0.02, eval_batch_size=25)
    trainer.fit(Classifier(SlowNetwork(clock, *seconds), 10), datamodule=data)
    return callbacks[0], read_run(folder, "run")


@pytest.mark.parametrize(
    ("call_seconds", "example_seconds", "drawn", "points"),
    [
        (0.0, 0.01, {"phase/timeline", *OF_VALIDATION}, 0),  # what tells most comes first
        (0.0, 1.0, DRAWN, 8),
        (4.0, 0.0, DRAWN, 0),
    ],
)
def test_dashboards_of_a_run_keep_to_the_share(
    call_seconds: float,
    example_seconds: float,
    drawn: set[str],
    points: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    said: list[str],
) -> None:
    budget, run = fit_slowly(tmp_path, monkeypatch, clock, SHARE, call_seconds, example_seconds)
    assert 0 < budget.spent <= SHARE * budget.training
    assert set(run.images) == drawn
    for name in ("validation/confusion_matrix_data", "validation/reliability_data", "phase/timeline_data"):
        assert name in run.data  # of which the report draws its figures
    before = tmp_path / "projector" / "before" / "points.tsv"
    assert before.exists() == bool(points)
    assert not points or len(before.read_text().splitlines()) == points
    assert "embeddings" in said[0]


def test_dashboards_of_a_blink_are_scalars_texts_and_numbers(image_folder: Path) -> None:
    states = []
    for share in ("0", "null"):
        main(fit_arguments(image_folder, "--dashboards.share", share, "--trainer.max_epochs", "2"))
        checkpoint = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
        states.append((checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"]))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    nothing, everything = (read_run(Path("logs/default", f"version_{number}"), "run") for number in (0, 1))
    assert nothing.scalars.keys() == everything.scalars.keys()
    assert set(everything.images) == DRAWN
    assert not nothing.images
    assert everything.data.keys() - nothing.data.keys() == {"change/layer_groups_data"}


def test_two_ranks_draw_the_same_whatever_their_clocks_say(tmp_path: Path) -> None:
    first, second = run_ranks("budget_ranks.py", tmp_path)
    assert first["decisions"] == second["decisions"]
    assert {is_drawn for _, is_drawn in first["decisions"]} == {True, False}


def test_module_runs_with_the_weights_and_statistics_of_its_start_and_keeps_its_own(tmp_path: Path) -> None:
    module: Any = L.LightningModule()
    module.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module.forward = module.layers.forward
    trainer: Any = SimpleNamespace(
        loggers=[TensorBoardLogger(tmp_path)], is_global_zero=True, global_step=0, strategy=None
    )
    start, inputs = StartingWeights(Budget()), torch.randn(5, 3)
    start.on_train_start(trainer, module)
    before = module.eval()(inputs)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.layers[1].running_mean, module.layers[1].running_var):
            tensor.add_(1)
    after = module(inputs)
    assert torch.equal(start.run(module, (inputs,)), before)
    assert torch.equal(module(inputs), after)
    assert not torch.allclose(before, after)
    trainer.global_step = 5  # a run that resumes does not know its start
    start.on_train_start(trainer, module)
    assert not start.are_known
