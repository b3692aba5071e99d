"""Successive halving of a study's candidates: who goes on, from where, and what the study says of it."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from interruptions import assert_equal_runs, last_checkpoint
from study_toys import STRATEGIES, pretend, toy_study

from lightning_transfer.cli.study_runs import read_study
from lightning_transfer.errors import UserError
from lightning_transfer.study import slurm
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Halving, Tuning
from lightning_transfer.study.damaged import set_aside_damaged
from lightning_transfer.study.halving import in_rung, rungs
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.runner import check_unchanged, run_study
from lightning_transfer.study.study_checks import check
from lightning_transfer.study.study_report import write_report
from lightning_transfer.study.tuning import choose

RATES = [0.1, 0.2, 0.3, 0.4, 0.5]
Score = Callable[[Cell, float], float]


def toy_plan(halving: Halving | None = None, **changes: Any) -> Plan:
    tuning = Tuning(RATES, halving=halving or Halving(reduction=2, first=0.25, finalists=1))
    return Plan(toy_study(**{"sizes": [2], "weights": {"none": None}, "tuning": tuning, **changes}), Path("logs"))


def validate(cell: Cell, share: float, score: Score) -> None:
    """Leaves what a run has noted that was validated at every eighth of its training until a share."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    shares = [eighth / 8 for eighth in range(1, 9) if eighth / 8 <= share]
    noted = {str(at): {"val/accuracy": score(cell, at), "val/loss": 1.0} for at in shares}
    (cell.folder / "validated.json").write_text(json.dumps(noted))


def training(score: Score, ran: list[tuple[str, Any, float]], dies: tuple[str, float] = ("", 0.0)) -> Any:
    """Pretends to train cells to the end of their part, and notes which. One candidate fails in a part."""

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            assert cell.arm is not None
            if cell.kind == "final":
                pretend(cell, 0.5)
            else:
                ran.append((cell.arm.strategy, cell.value, cell.part[1]))
                if (str(cell.value), cell.part[1]) == dies:
                    cell.fail("val/loss is nan")
                else:
                    validate(cell, cell.part[1], score)
                    if cell.part[1] == 1:
                        pretend(cell, score(cell, 1.0))
            yield cell, 1.0

    return execute


def by_rate(cell: Cell, share: float) -> float:
    return float(cell.value) * share


def test_rungs_divide_the_candidates_and_lengthen_the_training_until_few_are_left_or_it_ends() -> None:
    study = toy_plan().study
    assert rungs(study) == [(0.0, 0.25, 5), (0.25, 0.5, 2)]
    assert rungs(toy_plan(Halving(2, 0.5, 1)).study) == [(0.0, 0.5, 5), (0.5, 1.0, 2)]
    assert rungs(toy_plan(Halving(3, 0.2, 1)).study) == [(0.0, 0.2, 5)]
    assert rungs(toy_plan(Halving(3, 0.2)).study) == [(0.0, 0.2, 5), (0.2, 1.0, 2)]
    assert rungs(toy_plan(Halving(2, 0.1, 3)).study) == [(0.0, 0.1, 5), (0.1, 1.0, 3)]
    assert rungs(toy_plan(tuning=Tuning(list(range(1, 10)), halving=Halving(2, 0.1))).study) == [
        (0.0, 0.1, 9),
        (0.1, 0.2, 4),
        (0.2, 1.0, 2),
    ]
    assert rungs(toy_plan(tuning=Tuning([0.1, 0.2], halving=Halving(finalists=5))).study) == [
        (0.0, 0.2, 2),
        (0.2, 1.0, 2),
    ]
    assert rungs(toy_plan(tuning=Tuning(RATES)).study) == [(0.0, 1.0, 5)]


def test_best_candidates_go_on_and_every_strategy_has_the_same_budget() -> None:
    def score(cell: Cell, share: float) -> float:
        assert cell.arm is not None
        if cell.arm.strategy == "scratch":
            return by_rate(cell, share)
        return 1 - float(cell.value) if share <= 0.25 else float(cell.value)

    plan, ran = toy_plan(), []
    run_study(plan, training(score, ran), parallel=1, retry_failed=False)
    for strategy, second in (("scratch", [0.4, 0.5]), ("full", [0.1, 0.2])):
        assert [(value, end) for name, value, end in ran if name == strategy] == [
            *((rate, 0.25) for rate in RATES),
            *((rate, 0.5) for rate in second),
        ]
    chosen = {arm.strategy: value for (arm, _), value in choose(plan.study, plan.tuning()).items()}
    assert chosen == {"scratch": 0.5, "full": 0.2}


def test_strategy_with_a_longer_first_share_is_judged_after_it_and_the_others_as_before() -> None:
    def late(cell: Cell, share: float) -> float:  # as the rates of lp_ft are, once layers below the head train
        assert cell.arm is not None
        is_turned = cell.arm.strategy == "full" and share > 0.5
        return 1 - float(cell.value) if is_turned else by_rate(cell, share)

    plan, ran = toy_plan(Halving(3, 0.25, 2, {"full": 0.625})), []
    run_study(plan, training(late, ran), parallel=1, retry_failed=False)
    for strategy, first, last in (("scratch", 0.25, [0.4, 0.5]), ("full", 0.625, [0.1, 0.2])):
        assert [(value, end) for name, value, end in ran if name == strategy] == [
            *((rate, first) for rate in RATES),
            *((rate, 1.0) for rate in last),
        ]
    chosen = {arm.strategy: value for (arm, _), value in choose(plan.study, plan.tuning()).items()}
    assert chosen == {"scratch": 0.5, "full": 0.1}
    write_report(Outcomes(plan), Path("report"), "study")
    report = Path("report/toy.md").read_text()
    assert "5 until 25% of their training and 2 until 100% of their training (until 62% at least for full)" in report
    assert f"{(2 * 2 + 3 * 0.25 + 3 * 0.625) / 10:.1%} of the training of all candidates" in report


def test_rungs_before_a_longer_first_share_have_nothing_to_train() -> None:
    tuning = Tuning(list(range(1, 21)), halving=Halving(3, 0.1, 2, {"full": 0.6}))
    study = toy_plan(tuning=tuning).study
    assert [(round(begin, 1), round(end, 1), most) for begin, end, most in rungs(study, "scratch")] == [
        (0.0, 0.1, 20),
        (0.1, 0.3, 6),
        (0.3, 1.0, 2),
    ]
    assert rungs(study, "full") == [(0.0, 0.6, 20), (0.6, 0.6, 6), (0.6, 1.0, 2)]


def test_last_rung_that_ends_with_the_training_is_judged_by_the_record() -> None:
    plan, ran = toy_plan(Halving(2, 0.5, 1), strategies={"scratch": STRATEGIES["scratch"]}), []
    score: Score = lambda cell, share: float(cell.value) if share < 1 else 1 - float(cell.value)  # noqa: E731
    run_study(plan, training(score, ran), parallel=1, retry_failed=False)
    assert [value for _, value, end in ran if end == 1] == [0.4, 0.5]
    assert list(choose(plan.study, plan.tuning()).values()) == [0.4]


def test_mean_over_the_seeds_of_the_tuning_decides_and_all_of_them_go_on() -> None:
    tuning = Tuning([0.1, 0.2, 0.3, 0.4], seeds=[1000, 1001], halving=Halving(2, 0.5, 1))
    plan, ran = toy_plan(tuning=tuning, strategies={"scratch": STRATEGIES["scratch"]}), []
    lucky: Score = lambda cell, _: 0.9 if (cell.seed, cell.value) == (1000, 0.1) else float(cell.value)  # noqa: E731
    run_study(plan, training(lucky, ran), parallel=1, retry_failed=False)
    assert [value for _, value, end in ran if end == 1] == [0.1, 0.1, 0.4, 0.4]


def test_checkpoints_of_candidates_that_were_stopped_are_dropped_once_the_choice_is_made() -> None:
    plan = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}, keep_checkpoints="best")
    execute = training(by_rate, [])

    def saving(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            if cell.part[0]:
                assert (cell.folder / "checkpoints" / "last.ckpt").exists()
            (cell.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (cell.folder / "checkpoints" / "last.ckpt").touch()
            yield from execute([cell])

    run_study(plan, saving, parallel=1, retry_failed=False)
    assert [file for cell in plan.tuning() for file in cell.folder.rglob("*.ckpt")] == []
    assert all((cell.folder / "checkpoints" / "last.ckpt").exists() for cell in plan.final())


def test_stopped_study_goes_on_and_trains_no_part_twice() -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stopping(execute: Any, after: int) -> Any:
        def some(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
            for number, ended in enumerate(execute(cells)):
                yield ended
                if number + 1 == after:
                    raise Stopped

        return some

    whole: list[tuple[str, Any, float]] = []
    run_study(Plan(toy_plan().study, Path("whole")), training(by_rate, whole), parallel=1, retry_failed=False)
    plan, ran = toy_plan(), []
    for after in (3, 7, 1, 3):
        with pytest.raises(Stopped):
            run_study(plan, stopping(training(by_rate, ran), after), parallel=1, retry_failed=False)
        check_unchanged(plan)  # as a report of the unfinished study does
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert ran == whole
    before = len(ran)
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert len(ran) == before


@pytest.mark.parametrize(("end", "second", "chosen"), [(0.25, [0.3, 0.4], 0.4), (0.5, [0.4, 0.5], 0.4)])
def test_candidate_that_fails_is_out_and_takes_nobody_with_it(end: float, second: list[float], chosen: float) -> None:
    plan, ran = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}), []
    run_study(plan, training(by_rate, ran, dies=("0.5", end)), parallel=1, retry_failed=False)
    assert [value for _, value, until in ran if until == 0.5] == second
    assert list(choose(plan.study, plan.tuning()).values()) == [chosen]
    before = len(ran)
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert len(ran) == before, "the start that follows promotes nobody else"
    with pytest.raises(
        UserError, match=r"its tuning chooses 0.5 now, by other candidates or as a failed run was tried"
    ):
        run_study(plan, training(by_rate, ran), parallel=1, retry_failed=True)
    assert list(choose(plan.study, plan.tuning()).values()) == [0.5]


def test_halving_that_comes_after_a_part_of_the_grid_has_the_rest_of_its_rows_trained_to_the_end() -> None:
    grid = toy_plan(tuning=Tuning(RATES))
    [finished] = [cell for cell in grid.tuning() if (cell.arm.strategy, cell.value) == ("scratch", 0.1)]  # type: ignore[union-attr]
    pretend(finished, 0.3)  # at its end: at a quarter it would have been the worst
    plan, ran = toy_plan(), []
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert [(value, until) for name, value, until in ran if name == "scratch"] == [(rate, 1.0) for rate in RATES[1:]]
    assert {until for name, _, until in ran if name == "full"} == {0.25, 0.5}
    assert {*choose(plan.study, plan.tuning()).values()} == {0.5}


def test_damaged_notes_of_a_finished_run_promote_no_rival() -> None:
    plan, ran = toy_plan(Halving(3, 0.25)), []
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    before, chosen = len(ran), choose(plan.study, plan.tuning())
    [finalist] = [cell for cell in plan.tuning() if cell.is_finished and cell.arm.strategy == "full"][-1:]  # type: ignore[union-attr]
    (finalist.folder / "validated.json").write_text("{")
    set_aside_damaged(plan.folder, "accuracy")
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert len(ran) == before
    assert choose(plan.study, plan.tuning()) == chosen


def test_best_that_was_stopped_is_chosen_where_all_that_went_on_failed() -> None:
    plan, ran = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}), []

    def dying(cells: list[Cell]) -> Any:
        for value in ("0.4", "0.5"):
            yield from training(by_rate, ran, dies=(value, 0.5))([cell for cell in cells if str(cell.value) == value])
        yield from training(by_rate, ran)([cell for cell in cells if str(cell.value) not in ("0.4", "0.5")])

    run_study(plan, dying, parallel=1, retry_failed=False)
    assert list(choose(plan.study, plan.tuning()).values()) == [0.3]


def test_best_that_was_stopped_is_chosen_where_no_candidate_is_left_for_the_last_rung() -> None:
    tuning = Tuning([rate / 10 for rate in range(1, 10)], halving=Halving(first=0.25))
    plan = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}, tuning=tuning)
    assert [(rung.begin, rung.candidates) for rung in rungs(plan.study)] == [(0.0, 9), (0.25, 3), (0.75, 2)]

    def dying(cells: list[Cell]) -> Any:
        for cell in cells:
            if cell.kind == "tuning" and cell.part[1] == 0.75:
                cell.fail("CUDA out of memory")
                yield cell, 1.0
            else:
                yield from training(by_rate, [])([cell])

    assert choose(plan.study, plan.tuning()) == {}
    run_study(plan, dying, parallel=1, retry_failed=False)
    assert list(choose(plan.study, plan.tuning()).values()) == [0.6]
    assert all(cell.is_finished for cell in plan.final())


def test_run_that_stopped_training_by_itself_counts_with_what_it_reached() -> None:
    plan, ran = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}), []
    early = next(cell for cell in plan.tuning() if cell.value == 0.5)
    validate(early, 0.125, by_rate)
    pretend(early, 0.5 * 0.125)
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert [value for _, value, until in ran if until == 0.5] == [0.3, 0.4], "0.5 / 8 is less than 0.3 / 4"


def test_study_goes_on_without_halving_and_with_it_again() -> None:
    plan, ran = toy_plan(), []
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    grid = toy_plan(tuning=Tuning(RATES))
    check_unchanged(grid)
    run_study(grid, training(by_rate, ran), parallel=1, retry_failed=False)
    assert all(cell.is_finished for cell in grid.tuning())
    before = len(ran)
    run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert len(ran) == before


@pytest.mark.parametrize(
    "before",
    [
        Tuning([0.4, 0.5, 0.6, 0.8, 0.9], halving=Halving(first=0.25)),
        Tuning([rate / 10 for rate in range(1, 10)], halving=Halving(first=0.25, finalists=3)),
    ],
)
def test_study_whose_rungs_change_chooses_what_it_would_have_chosen_with_them(before: Tuning) -> None:
    curves = {0.8: (0.16, 0.9, 0.95), 0.9: (0.18, 0.3, 0.5), 0.7: (0.17, 0.4, 0.6)}  # at 0.25, 0.75 and 1

    def score(cell: Cell, share: float) -> float:
        early, middle, late = curves.get(cell.value, (cell.value / 10,) * 3)
        return early if share < 0.5 else middle if share < 1 else late

    ran: list[tuple[str, Any, float]] = []
    execute = training(score, ran)

    def recording(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            begin = cell.part[0]
            noted = cell.validated if cell.part[1] == 1 and cell.kind == "tuning" else None
            yield from execute([cell])
            if noted is not None:  # only what pauses notes its validations, and the record has them all
                (cell.folder / "validated.json").unlink()
                if begin:
                    (cell.folder / "validated.json").write_text(json.dumps(noted))
                pretend(cell, score(cell, 1.0), validations=[{}] * 8)

    after = Tuning([rate / 10 for rate in range(1, 10)], halving=Halving(first=0.25))
    one = {"scratch": STRATEGIES["scratch"]}
    for name, stages in (("at_once", [after]), ("changed", [before, after])):
        for tuning in stages:
            final = {"seeds": [len(tuning.values), tuning.halving.finalists]}  # type: ignore[union-attr]
            plan = toy_plan(tuning=tuning, strategies=one, name=name, **final)
            run_study(plan, recording, parallel=1, retry_failed=False)
        assert list(choose(plan.study, plan.tuning()).values()) == [0.8], name


def test_what_was_trained_beyond_a_rung_does_not_count_in_it() -> None:
    late: Score = lambda cell, share: by_rate(cell, share) if share <= 0.25 else 1 - float(cell.value)  # noqa: E731
    strategies = {"scratch": STRATEGIES["scratch"]}
    run_study(toy_plan(Halving(5, 0.5, 1), strategies=strategies), training(late, []), parallel=1, retry_failed=False)
    plan = toy_plan(Halving(2, 0.25, 1), strategies=strategies)
    assert [cell.value for cell in in_rung(plan.study, plan.tuning(), 1)] == [0.4, 0.5]


def test_progress_counts_a_candidate_once_and_says_where_it_pauses(capsys: pytest.CaptureFixture[str]) -> None:
    plan = toy_plan(strategies={"scratch": STRATEGIES["scratch"]}, seeds=[0])
    run_study(plan, training(by_rate, []), parallel=1, retry_failed=False)
    lines = capsys.readouterr().out.splitlines()
    paused = [line for line in lines if "of its training" in line]
    assert paused[0].startswith(
        "0/6  tune-scratch-size_2-seed_1000-lr_0.1  val/accuracy 0.0250  after 25% of its train"
    )
    # Five finals or candidates of four seconds each, of which a candidate has 1.75 / 5 on average.
    assert "about 11 s left" in paused[0]
    assert [line.split()[0] for line in paused] == ["0/6"] * 5 + ["3/6"] * 2
    assert lines[-1].startswith("6/6  scratch-size_2-seed_0")
    run_study(plan, training(by_rate, []), parallel=1, retry_failed=False)
    assert "6 runs in logs/toy: 1 finished, 0 failed, 5 stopped early, 0 to run" in capsys.readouterr().out


def test_report_and_table_say_how_the_candidates_were_halved() -> None:
    plan = toy_plan()
    run_study(plan, training(by_rate, []), parallel=1, retry_failed=False)
    write_report(Outcomes(plan), Path("report"), "study")
    text = Path("report/toy.md").read_text()
    assert "The candidates of each row were halved: 5 until 25% of their training and 2 until 50% of their" in text
    assert "They had 35.0% of the training of all candidates." in text
    with Path("report/toy_cells.csv").open(newline="") as stream:
        found = {(row["strategy"], row["value"]): row for row in csv.DictReader(stream) if row["kind"] == "tuning"}
    row = found["full", "0.3"]
    assert (row["status"], row["trained_share"], row["val/accuracy"]) == ("stopped", "0.25", str(0.3 * 0.25))
    assert found["full", "0.5"]["trained_share"] == "0.5"


def test_metric_that_is_not_logged_ends_the_study_after_its_first_part() -> None:
    plan, ran = toy_plan(metric="acuracy", mode="max"), []
    with pytest.raises(
        UserError, match=r"'acuracy' of the study is val/acuracy: expected one logged in logs/toy/tune-"
    ):
        run_study(plan, training(by_rate, ran), parallel=1, retry_failed=False)
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (Tuning(RATES, halving=Halving(1)), r"tuning\.halving\.reduction is 1: expected 2 or more"),
        (
            Tuning(RATES, halving=Halving(first=1.0)),
            r"tuning\.halving\.first is 1\.0: expected a share between 0 and 1",
        ),
        (Tuning(RATES, halving=Halving(finalists=0)), r"tuning\.halving\.finalists is 0: expected 1 or more"),
        (
            Tuning(RATES, halving=Halving(first_of={"lp_ft": 0.6})),
            r"tuning\.halving\.first_of names lp_ft: expected one of the strategies scratch, full",
        ),
        (
            Tuning(RATES, halving=Halving(first_of={"full": 0.1})),
            r"tuning\.halving\.first_of full is 0\.1: expected at least first, 0\.2, and below 1",
        ),
        (Tuning([0.1], halving=Halving()), r"tuning\.values has 1 candidate: expected 2 or more with halving"),
    ],
)
def test_mistake_is_named(tuning: Tuning, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(toy_study(tuning=tuning))


def test_file_of_a_study_asks_for_halving() -> None:
    content = asdict(toy_study())
    own = {"first_of": {"full": 0.6}}
    for given, expected in (({}, Halving()), ({"reduction": 4}, Halving(4)), (own, Halving(**own)), (None, None)):
        content["tuning"]["halving"] = given
        Path("study.yaml").write_text(yaml.safe_dump(content))
        study, _ = read_study(["--config", "study.yaml"])
        assert study.tuning is not None
        assert study.tuning.halving == expected


def test_file_of_a_study_tunes_by_classes_with_their_arguments() -> None:
    values = [{"class_path": "torch.optim.SGD", "init_args": {"lr": rate}} for rate in (0.1, 0.2)]
    content = asdict(toy_study()) | {"tuning": {"key": "model.optimizer", "values": values}}
    Path("study.yaml").write_text(yaml.safe_dump(content))
    study, _ = read_study(["--config", "study.yaml"])
    assert study.tuning == Tuning(values, key="model.optimizer")


def test_job_of_an_earlier_part_that_is_still_queued_does_not_stand_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, submitted = toy_plan(), []
    monkeypatch.setattr(slurm, "_queue", lambda jobs: jobs)
    monkeypatch.setattr(slurm, "_wait", lambda *_: iter(()))

    def submit(cells: list[Cell], *_: Any) -> dict[str, str]:
        submitted.append(len(cells))
        jobs = {slurm._work(cell): "toy_0" for cell in cells}
        Path("jobs.json").write_text(json.dumps(jobs))
        return jobs

    monkeypatch.setattr(slurm, "_submit", submit)
    [cell] = in_rung(plan.study, plan.tuning()[:1], 0)
    for part in ((0.0, 0.25), (0.0, 0.25), (0.25, 0.5), (0.5, 1.0)):
        list(slurm.run_on_slurm([replace(cell, part=part)], Path(), {}, 1))
    assert submitted == [1, 1, 1], "the study that is started again finds its job, and each part has one of its own"


def test_run_is_judged_in_a_rung_by_the_checkpoint_that_it_keeps() -> None:
    overrides = {"trainer": {"max_epochs": 4}, "checkpoint": {"monitor": "val/accuracy", "mode": "max"}}
    whole, *_ = toy_plan(sizes=[4], overrides=overrides).tuning()
    half = replace(whole, part=(0.0, 0.75))
    half.run()
    assert (half.is_paused, list(half.validated)) == (True, [0.25, 0.5, 0.75])
    whole.run()
    result = whole.result
    assert result is not None
    seen = [{name: entry[name] for name in entry if name.startswith("val/")} for entry in result["validations"]]
    for number, kept in enumerate(half.validated.values(), start=1):
        assert kept == max(seen[:number], key=lambda metrics: (metrics["val/accuracy"], -metrics["val/loss"]))


@pytest.mark.slow
def test_promoted_run_equals_the_one_that_never_paused_even_if_it_is_stopped_in_mid_rung() -> None:
    interruption = {"class_path": "interruptions.Interruption", "init_args": {"steps": [2, 8], "kind": "SIGTERM"}}
    trainer = {"max_epochs": 4, "log_every_n_steps": 1, "callbacks+": interruption}
    overrides = {"trainer": trainer, "data": {"batch_size": 8}, "model": {"lr_schedule": "cosine"}}
    cell, *_ = toy_plan(Halving(2, 0.5, 1), sizes=[4], overrides=overrides).tuning()
    marks = [Path(f"interrupted_after_{step}") for step in (2, 8)]
    for mark in marks:
        mark.touch()
    arguments = tuple(word.replace("logs=logs", "logs=whole") for word in cell.arguments)
    whole = replace(cell, logs=Path("whole/toy"), arguments=arguments)
    whole.run()
    for mark in marks:
        mark.unlink()
    for part in ((0.0, 0.5), (0.5, 1.0)):
        now = replace(cell, part=part)
        with pytest.raises(SystemExit, match="143"):
            now.run()
        assert not now.is_over
        now.run()
        assert (now.is_over, now.failure) == (True, None)
        assert (last_checkpoint(cell.folder)["global_step"], max(now.validated)) == (part[1] * 12, 0.5)
    assert_equal_runs(cell.folder, whole.folder)
    result = json.loads((cell.folder / "results.json").read_text())
    assert result["validation"] == json.loads((whole.folder / "results.json").read_text())["validation"]
    assert "TrainingPause" not in result["command"]
