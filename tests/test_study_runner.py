"""What a study makes of runs that end: well, badly, both at once, or with a metric that nobody logged."""

import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from study_toys import pretend, pretend_all, toy_study

from lightning_transfer.errors import UserError
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Tuning
from lightning_transfer.study.damaged import set_aside_damaged
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.runner import check_unchanged, run_study
from lightning_transfer.study.tuning import choose
from lightning_transfer.study.until_decided import run_until_decided


def toy_plan(**changes: Any) -> Plan:
    return Plan(toy_study(**changes), Path("logs"))


def noting(ran: list[str]) -> Callable[[list[Cell]], Iterator[tuple[Cell, float]]]:
    """Pretends to run cells, and notes which."""

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            ran.append(cell.name)
            pretend(cell, 0.5)
            yield cell, 1.0

    return execute


def test_finished_run_has_not_failed_whatever_was_recorded_of_it() -> None:
    # A worker that dies after its last run has written its results, or a job that comes late.
    finished, failed, *_ = toy_plan(tuning=None).final()
    for cell in (finished, failed):
        cell.fail("its process ended with exit status 1")
    pretend(finished, 0.5)
    assert (finished.failure, finished.is_over) == (None, True)
    assert failed.failure == "its process ended with exit status 1"


def test_retry_keeps_a_finished_run_that_was_taken_for_failed() -> None:
    plan = toy_plan(tuning=None, weights={"none": None})
    late, *others = plan.final()
    late.fail("its job 1 ended without a result")
    pretend_all([late, *others], lambda _: 0.5)
    ran: list[str] = []
    run_study(plan, noting(ran), parallel=1, retry_failed=True)
    assert ran == []
    assert late.is_finished


def test_metric_that_is_not_logged_ends_the_study_after_its_first_run() -> None:
    plan = toy_plan(metric="acuracy", weights={"none": None})
    ran: list[str] = []
    message = r"'acuracy' of the study is val/acuracy: expected one logged in logs/toy/tune-\S+: val/accuracy, val/loss"
    with pytest.raises(UserError, match=message):
        run_study(plan, noting(ran), parallel=1, retry_failed=False)
    assert len(ran) == 1
    pretend_all(plan.tuning(), lambda _: 0.5)
    with pytest.raises(UserError, match=message):  # nor does it say so in another way when it is started again
        run_study(plan, noting(ran), parallel=1, retry_failed=False)
    assert len(ran) == 1


def test_metric_of_the_test_that_is_not_logged_is_named_in_the_report() -> None:
    plan = toy_plan(metric="macro_f1", tuning=None)
    pretend_all(plan.final(), lambda _: 0.5)
    with pytest.raises(
        UserError, match=r"is test/macro_f1: expected one logged in logs/toy/scratch-\S+: test/accuracy, test/loss"
    ):
        Outcomes(plan)


def stages(plan: Plan) -> list[list[str]]:
    """Runs a study, and gives the names of what it ran at a time."""
    found: list[list[str]] = []

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        if cells:
            found.append([cell.name for cell in cells])
        for cell in cells:
            pretend(cell, 0.5)
            yield cell, 1.0

    run_study(plan, execute, parallel=2, retry_failed=False)
    return found


def test_what_needs_no_pretraining_is_run_beside_it() -> None:
    first, second, third = stages(toy_plan(sizes=[2], seeds=[0], tuning=Tuning([0.1])))
    assert first == ["pretrain-source-seed_0", "tune-scratch-size_2-seed_1000-lr_0.1"]
    assert second == ["tune-full-size_2-seed_1000-lr_0.1"]
    assert third == ["scratch-size_2-seed_0", "full-size_2-seed_0"]


def test_what_takes_a_file_of_the_pretraining_waits_for_it() -> None:
    vocabulary = {"data.vocabulary_path": "{study}/pretrain-source-seed_0/tokenizer.json"}
    first, second, _ = stages(toy_plan(sizes=[2], seeds=[0], tuning=Tuning([0.1]), overrides=vocabulary))
    assert first == ["pretrain-source-seed_0"]
    assert len(second) == 2


def test_pretraining_that_holds_nothing_out_gives_its_last_checkpoint() -> None:
    starts: set[str] = set()

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            starts.update(argument for argument in cell.arguments if argument.startswith("--init_from"))
            pretend(cell, 0.5)
            if cell.kind == "pretraining":
                (cell.folder / "checkpoints").mkdir()
                (cell.folder / "checkpoints" / "last.ckpt").touch()
            yield cell, 1.0

    run_study(toy_plan(), execute, parallel=1, retry_failed=False)
    assert starts == {"--init_from=logs/toy/pretrain-source-seed_0/checkpoints/last.ckpt"}


def test_failed_pretraining_ends_the_study_at_once() -> None:
    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        assert cells[0].kind == "pretraining"
        cells[0].fail("diverged")
        yield cells[0], 1.0
        raise AssertionError("something is run after it")

    message = r"logs/toy/pretrain-source-seed_0 failed \(diverged\), see its log"
    with pytest.raises(UserError, match=message):
        run_study(toy_plan(), execute, parallel=1, retry_failed=False)
    ran: list[str] = []
    with pytest.raises(UserError, match=message):
        run_study(toy_plan(), noting(ran), parallel=1, retry_failed=False)
    assert ran == []
    run_study(toy_plan(), noting(ran), parallel=1, retry_failed=True)
    assert len(ran) == 1 + 8 + 8


def test_time_of_failed_runs_is_time_of_runs() -> None:
    plan = toy_plan(sizes=[2], tuning=None, weights={"none": None})

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for number, cell in enumerate(cells):
            cell.fail("diverged") if number else pretend(cell, 0.5)
            yield cell, 2.0

    assert run_study(plan, execute, parallel=1, retry_failed=False) == 2.0 * 4


def test_candidates_that_are_tried_again_after_all_failed_are_counted_as_to_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = toy_plan(weights={"none": None}, sizes=[2], seeds=[0])
    for cell in plan.tuning():
        cell.begin()
        cell.fail("no such folder")
    run_study(plan, noting([]), parallel=1, retry_failed=True)
    assert "6 runs in logs/toy: 0 finished, 0 failed, 6 to run, 1 at a time" in capsys.readouterr().out


def test_choice_that_a_retry_changes_is_named_with_the_runs_to_delete() -> None:
    plan = toy_plan(
        weights={"none": None}, sizes=[2], strategies={"full": "configs/strategies/full.yaml"}, baseline="full"
    )
    is_flaky = True

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            cell.begin()
            if cell.kind == "tuning" and cell.value == 0.01 and is_flaky:
                cell.fail("its process ended with exit status -9")
            else:
                pretend(cell, 0.9 if cell.value == 0.01 else 0.5)
            yield cell, 1.0

    run_study(plan, execute, parallel=1, retry_failed=False)
    is_flaky = False
    message = (
        r"full-size_2-seed_0 was made with \S+\.lr 0\.001, and its tuning chooses 0\.01 now, by other candidates or as"
        r" a failed run was tried again: delete logs/toy/full-size_2-seed_\*, which are then run with that"
    )
    for start in (lambda: run_study(plan, execute, 1, retry_failed=True), lambda: check_unchanged(plan)):
        with pytest.raises(UserError, match=message):
            start()
    for folder in Path("logs/toy").glob("full-size_2-seed_*"):
        shutil.rmtree(folder)
    run_study(plan, execute, parallel=1, retry_failed=False)
    assert [cell.score("accuracy") for cell in plan.final(choose(plan.study, plan.tuning()))] == [0.9, 0.9]


@pytest.mark.parametrize(
    ("keep", "of_final", "of_tuning"),
    [("all", ["best.ckpt", "last.ckpt"], ["best.ckpt", "last.ckpt"]), ("best", ["best.ckpt"], []), ("none", [], [])],
)
def test_checkpoints_that_are_not_kept_are_dropped_as_soon_as_a_run_has_finished(
    keep: Any, of_final: list[str], of_tuning: list[str]
) -> None:
    plan = toy_plan(weights={"none": None}, sizes=[2], keep_checkpoints=keep)
    seen: list[int] = []

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            seen.append(len([*Path("logs/toy").rglob("*.ckpt")]))
            pretend(cell, 0.5)
            (cell.folder / "checkpoints").mkdir()
            for name in ("best.ckpt", "last.ckpt"):
                (cell.folder / "checkpoints" / name).touch()
            (cell.folder / "checkpoints" / "best_adapter").mkdir()
            (cell.folder / "checkpoints" / "best_adapter" / "adapter_model.safetensors").touch()
            yield cell, 1.0

    def kept(cell: Cell) -> list[str]:
        names = sorted(file.name for file in (cell.folder / "checkpoints").iterdir())
        assert ("best_adapter" in names) == ("best.ckpt" in names), "adapters go with their checkpoint"
        return [name for name in names if name != "best_adapter"]

    run_study(plan, execute, parallel=1, retry_failed=False)
    assert {tuple(kept(cell)) for cell in plan.final()} == {tuple(of_final)}
    assert {tuple(kept(cell)) for cell in plan.tuning()} == {tuple(of_tuning)}
    assert keep == "all" or max(seen) <= len(plan.final())
    # A study that was killed before drops them when it goes on. What has no best checkpoint keeps its last.
    first = plan.final()[0].folder / "checkpoints"
    (first / "best.ckpt").unlink(missing_ok=True)
    shutil.rmtree(first / "best_adapter", ignore_errors=True)
    (first / "last.ckpt").touch()
    run_study(plan, execute, parallel=1, retry_failed=False)
    assert kept(plan.final()[0]) == ([] if keep == "none" else ["last.ckpt"])


def test_failed_run_is_tried_again_once_however_many_seeds_are_added() -> None:
    strategies = {name: f"configs/strategies/{name}.yaml" for name in ("scratch", "full")}
    plan = toy_plan(weights={"none": None}, sizes=[2], strategies=strategies, tuning=None, until_decided=5)
    ran: list[str] = []

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            ran.append(cell.name)
            cell.fail("diverged") if cell.name == "full-size_2-seed_0" else pretend(cell, 0.5)
            yield cell, 1.0

    run = partial(run_study, execute=execute, parallel=1)
    outcomes = run_until_decided(
        plan, lambda plan: run(plan, retry_failed=False), begin=lambda plan: run(plan, retry_failed=True)
    )
    assert len(outcomes.plan.seeds) == 5
    assert ran.count("full-size_2-seed_0") == 1


def test_study_says_from_its_start_what_runs_how_far_how_long_still_and_what_is_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = toy_plan(tuning=None, weights={"none": None}, sizes=[2], seeds=[0, 1])
    first, second, third, fourth = plan.final()
    pretend(first, 0.5)

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        if not cells:  # a stage that has nothing to run
            return
        started, following = capsys.readouterr().out.splitlines()
        assert started == (
            "4 runs in logs/toy: 1 finished, 0 failed, 3 to run, 2 at a time"
            f"  best so far {first.name} (val/accuracy 0.5000)"
        )
        assert following.startswith(f"running {second.name}, {third.name}; ")
        assert cells == [second, third, fourth]
        pretend(second, 0.75)
        yield second, 10.0
        third.begin()
        third.fail("no memory")
        yield third, 1.0
        pretend(fourth, 0.25)
        yield fourth, 10.0

    run_study(plan, execute, parallel=2, retry_failed=False)
    best = f"best so far {second.name} (val/accuracy 0.7500)"
    assert capsys.readouterr().out.splitlines() == [
        f"2/4  {second.name}  val/accuracy 0.7500  test/accuracy 0.7500  10.0 s  2 running  about 10 s left  {best}",
        f"3/4  {third.name}  FAILED: no memory  1.0 s  1 running  about 10 s left  1 failed  {best}",
        f"4/4  {fourth.name}  val/accuracy 0.2500  test/accuracy 0.2500  10.0 s  1 failed",
    ]


@pytest.mark.parametrize(("split", "prefix"), [("validation", "val"), ("test", "test")])
def test_run_whose_metric_is_no_number_has_failed_once_and_for_all(
    split: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = toy_study(tuning=None, weights={"none": None}, sizes=[2], seeds=[0])
    ran: list[str] = []

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            ran.append(cell.name)
            pretend(cell, 0.5, **({split: {f"{prefix}/accuracy": math.nan}} if "full" in cell.name else {}))
            yield cell, 1.0

    for _ in range(2):  # a study that is started again does not try what has failed
        plan = Plan(study, Path("logs"))
        set_aside_damaged(plan.folder, study.metric)
        run_study(plan, execute, parallel=1, retry_failed=False)
    assert ran == ["scratch-size_2-seed_0", "full-size_2-seed_0"]
    assert f"FAILED: {prefix}/accuracy is nan: expected a number" in capsys.readouterr().out
    assert [outcome.label for outcome in Outcomes(plan).at(2)] == ["scratch"]
    run_study(plan, execute, parallel=1, retry_failed=True)
    assert ran[2:] == ["full-size_2-seed_0"]
