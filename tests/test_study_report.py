"""The report says what was found and how surely, from results that are there or not."""

import csv
import re
from pathlib import Path

import pytest
from study_toys import STRATEGIES, pretend, pretend_all, toy_study

from lightning_transfer.errors import UserError
from lightning_transfer.study import plots
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Tuning
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.study_checks import check
from lightning_transfer.study.study_report import headline, write_report
from lightning_transfer.study.tuning import choose
from lightning_transfer.study.until_decided import run_until_decided

GAINS = {"scratch": 0.0, "full": 0.2, "gradual": 0.25}


def accuracy(cell: Cell) -> float:
    """Higher by strategy and size, with luck that a seed shares and a little of each run's own."""
    assert cell.arm is not None
    size, strategy = int(cell.size or 0), cell.arm.strategy
    own = (list(GAINS).index(strategy) + 1) * (cell.seed**2 + size) % 7 / 1000
    return 0.3 + 0.01 * size + GAINS[strategy] + 0.02 * (cell.seed % 5) + own


@pytest.fixture
def plan() -> Plan:
    """A finished study of three strategies at two sizes with five seeds."""
    plan = Plan(toy_study(strategies=STRATEGIES, seeds=[0, 1, 2, 3, 4]), Path("logs"))
    pretend_all([*plan.tuning(), *plan.final()], accuracy)
    return plan


def report(plan: Plan) -> str:
    write_report(Outcomes(plan), Path("report"), "lightning-transfer study --config toy.yaml")
    return Path("report/toy.md").read_text()


def rows(name: str) -> list[dict[str, str]]:
    with Path("report", name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_report_names_winner_with_its_lead_and_rival(plan: Plan) -> None:
    text = report(plan)
    sentence = text.split("\n\n")[1]
    assert sentence == headline(Outcomes(plan))
    assert re.fullmatch(
        r"At size 2 \*\*gradual\*\* wins, \+[45]\.\d\d \(\+4\.\d\d to \+5\.\d\d, n=5\) points over full, its closest "
        r"rival \(p < 0\.001\); at size 4 \*\*gradual\*\* wins, .*\.",
        sentence,
    )


def test_report_says_where_no_difference_is_shown(plan: Plan) -> None:
    for cell in plan.final():
        assert cell.arm is not None
        if cell.size == 4 and cell.arm.strategy == "gradual":
            pretend(cell, accuracy(cell) - 0.05 + 0.02 * (-1) ** cell.seed)
    text = report(plan)
    number = r"[+-]\d+\.\d\d"
    lead = rf"\(lead of the best: {number} \({number} to {number}, n=5\) points\)"
    assert re.search(rf"at size 4 \*\*no difference shown\*\* between full and gradual {lead}\.", text)
    assert "Size 4: no difference shown. gradual has the best mean, not told apart from full" in text


def test_means_differences_and_intervals_are_those_of_the_runs(plan: Plan) -> None:
    text = report(plan)
    full = {cell.seed: 100 * accuracy(cell) for cell in plan.final() if cell.name.startswith("full-size_2")}
    scratch = {cell.seed: 100 * accuracy(cell) for cell in plan.final() if cell.name.startswith("scratch-size_2")}
    mean = sum(full.values()) / 5
    assert f"| full | {mean:.2f} ± " in text
    difference = sum(full[seed] - scratch[seed] for seed in full) / 5
    assert f"| full | 2 | {difference:+.2f} | " in text
    [row] = [row for row in rows("toy_summary.csv") if (row["arm"], row["size"]) == ("full", "2")]
    assert float(row["mean"]) == pytest.approx(mean)
    assert float(row["difference"]) == pytest.approx(difference)
    assert float(row["p_wilcoxon"]) == 0.0625
    assert "on 5 pairs can never give a p below 0.0625" in text
    assert "corrected for all 4 comparisons (Holm)" in text


def test_failed_and_missing_runs_are_counted_and_not_replaced(plan: Plan) -> None:
    cells = {cell.name: cell for cell in plan.final()}
    for name in ("full-size_2-seed_1", "full-size_2-seed_3"):
        cells[name].forget()
    cells["full-size_2-seed_1"].fail("the training diverged")
    text = report(plan)
    assert "**2 of 30 runs are missing: 1 failed, 1 not run.**" in text
    assert "(n=3 of 5)" in text
    assert "- `full-size_2-seed_1`: the training diverged" in text
    status = {(row["strategy"], row["size"], row["seed"]): row["status"] for row in rows("toy_cells.csv")}
    assert status["full", "2", "1"] == "failed"
    assert status["full", "2", "3"] == "not run"
    [row] = [row for row in rows("toy_summary.csv") if (row["arm"], row["size"]) == ("full", "2")]
    assert (row["planned"], row["finished"], row["failed"]) == ("5", "3", "1")


def test_best_that_shares_no_seed_with_its_rival_is_not_called_without_one(plan: Plan) -> None:
    for cell in plan.final():
        assert cell.arm is not None
        if cell.size == 4 and (cell.seed < 2) == (cell.arm.strategy == "gradual"):
            cell.forget()
    text = report(plan)
    assert "Size 4: no difference shown. gradual has the best mean, but shares no finished seed with scratch." in text


def test_size_without_facts_of_the_data_is_reported(plan: Plan) -> None:
    for cell in plan.final():
        if cell.size == 4:
            pretend(cell, accuracy(cell), data=None)
    assert "| 2 (12) | 4 |" in report(plan)


def test_strategy_that_is_not_compared_with_the_baseline_is_named() -> None:
    plan = Plan(toy_study(strategies=STRATEGIES, baseline="full", tuning=None), Path("logs"))
    pretend_all(plan.final(), accuracy)
    assert "full takes starting weights; not compared with it, because they take none: scratch." in report(plan)


def test_tuned_value_at_the_end_of_the_list_is_marked(plan: Plan) -> None:
    for cell in plan.tuning():
        pretend(cell, 0.9 if cell.value == 0.01 else 0.1)
    assert report(plan).count("0.01 ↑") == 6
    assert {row["edge"] for row in rows("toy_summary.csv")} == {"highest"}


def test_row_of_each_run_has_its_tuned_value(plan: Plan) -> None:
    for cell in plan.tuning():
        pretend(cell, 0.9 if (cell.value == 0.01) == (cell.size == 2) else 0.1)
    report(plan)
    final = [row for row in rows("toy_cells.csv") if row["kind"] == "final"]
    assert {(row["size"], row["value"]) for row in final} == {("2", "0.01"), ("4", "0.001")}
    assert len(final) == 30


def test_legend_names_strategies_that_finished_at_another_size_only(plan: Plan) -> None:
    for cell in plan.final():
        if cell.size == 2 and cell.name.startswith("full"):
            cell.forget()
    report(plan)
    figure = Path("report/toy_seconds.svg").read_text()
    assert [figure.count(f">{strategy}<") for strategy in STRATEGIES] == [1, 1, 1]


def test_pareto_front_leaves_out_what_is_slower_and_worse(plan: Plan) -> None:
    for cell in plan.final():
        assert cell.arm is not None
        seconds = {"scratch": 1.0, "full": 9.0, "gradual": 3.0}[cell.arm.strategy]
        pretend(cell, accuracy(cell), train_seconds=seconds)
    text = report(plan)
    for strategy, is_on_front in {"scratch": True, "full": False, "gradual": True}.items():
        [row] = re.findall(rf"^\| {strategy} \| 2 \| 0\.\d+ .*$", text, re.MULTILINE)
        assert row.endswith("| ● |") == is_on_front


def test_figures_show_each_seed_beside_its_mean_and_interval(plan: Plan) -> None:
    report(plan)
    for name, bars in (("labels", 6), ("seconds", 0)):  # three strategies at two sizes
        figure = Path(f"report/toy_{name}.svg").read_text()
        seeds = re.findall(r'<polygon points="[^"]*" fill="[^"]*" opacity="0.6">', figure)
        assert len(seeds) == 30
        assert len(re.findall(r"<title>\w+: [\d.]+ to [\d.]+ at", figure)) == bars


def test_many_strategies_have_marks_of_their_own_and_seeds_stand_beside_theirs() -> None:
    names = [f"way_{number:02}" for number in range(16)]
    plan = Plan(toy_study(strategies=dict.fromkeys(names, STRATEGIES["full"]), sizes=[2], tuning=None), Path("logs"))
    pretend_all(plan.final(), lambda cell: 0.5 + 0.01 * cell.seed)
    report(plan)
    figure = Path("report/toy_labels.svg").read_text()
    drawn = r'<polygon points="([^"]*)" fill="([^"]*)"( opacity="0.6")?><title>(\w+): [\d.]+ at ([\d.]+)'
    marks, seeds = dict[str, tuple[object, float]](), list[tuple[str, float]]()
    for points, color, is_seed, name, x in re.findall(drawn, figure):
        corners = [[float(number) for number in point.split(",")] for point in points.split()]
        shape = tuple((round(a - corners[0][0]), round(b - corners[0][1])) for a, b in corners)
        if is_seed:
            seeds.append((name, float(x)))
        else:
            marks[name] = (shape, color), float(x)
    assert len({look for look, _ in marks.values()}) == len(names)
    assert len(seeds) == 2 * len(names)
    for name, x in seeds:
        assert min(marks, key=lambda other: abs(marks[other][1] - x)) == name


def test_choices_are_named_in_the_order_of_the_strategies() -> None:
    names = [f"way_{number:02}" for number in range(16)]
    study = toy_study(strategies=dict.fromkeys(names, STRATEGIES["full"]), sizes=[2], tuning=Tuning([0.01, 0.1]))
    plan = Plan(study, Path("logs"))
    pretend_all(plan.tuning(), lambda cell: cell.value)
    assert [arm.strategy for arm, _ in choose(study, plan.tuning())] == names


def test_equal_strategies_do_not_hide_each_other(plan: Plan) -> None:
    for cell in plan.final():
        pretend(cell, 0.5)
    report(plan)
    figure = Path("report/toy_labels.svg").read_text()
    lines = re.findall(r'<polyline points="([^"]*)" [^>]*stroke-width="1.8"[^>]*><title>(\w+)', figure)
    assert len({points for points, _ in lines}) == len(lines) == 3


def test_axes_of_an_accuracy_stay_within_0_and_100_percent(plan: Plan) -> None:
    for cell in plan.final():
        pretend(cell, 0.99 - 0.4 * (cell.seed == 0))  # the intervals go beyond 100
    report(plan)
    for name in ("labels", "seconds"):
        figure = Path(f"report/toy_{name}.svg").read_text()
        numbers = re.findall(r'text-anchor="end" dominant-baseline="central">([\d.-]+)<', figure)
        assert numbers
        assert all(0 <= float(number) <= 100 for number in numbers)


def test_data_that_changed_during_the_study_is_noticed(plan: Plan) -> None:
    assert "The data changed" not in report(plan)
    pretend(plan.final()[0], 0.5, data={"fingerprints": {"train": "b"}, "train_examples": 12})
    assert "**The data changed during the study**: 2 different fingerprints." in report(plan)


def test_examples_that_test_and_training_share_are_said(plan: Plan) -> None:
    assert "in the training split too" not in report(plan)
    pretend(plan.final()[0], 0.5, data={"test_examples_in_training_split": 3})
    assert "**3 examples of the test split are in the training split too.**" in report(plan)


def test_privacy_of_runs_is_said_and_what_it_leaves_out(plan: Plan) -> None:
    assert "Private runs" not in report(plan)
    pretend(plan.final()[0], 0.5, privacy={"epsilon": 2.9876, "delta": 1e-5})
    text = report(plan)
    runs = len(plan.tuning()) + len(plan.final())
    assert "**Private runs**, the largest ε of each row at δ 1e-05: " in text
    assert re.search(r": \w+ at size 2 2\.99\. Each ε is that of one run\. Not in it: the validation examples", text)
    assert f"this study has {runs} runs on the same training examples" in text
    assert [row["epsilon"] for row in rows("toy_cells.csv") if row["epsilon"]] == ["2.9876"]


def test_features_that_runs_share_are_said(plan: Plan) -> None:
    assert "Features of frozen layers" not in report(plan)
    of_tuning = {"computed": 1200, "taken": 0, "computed_seconds": 10.0, "saved_seconds": 0.0}
    of_final = {"computed": 100, "taken": 5000, "computed_seconds": 1.0, "saved_seconds": 40.5}
    pretend(plan.tuning()[0], 0.5, shared_features=of_tuning)
    pretend(plan.final()[0], 0.5, shared_features=of_final)
    words = (
        "those of 1,300 examples were computed, in 11.0 s, and those of 5,000 taken from the cache, which saved 40.5 s"
    )
    assert words in report(plan)


def test_page_needs_nothing_from_elsewhere(plan: Plan) -> None:
    report(plan)
    page = Path("report/toy.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r"<(script|link|img|iframe)|\bsrc=|url\(\s*['\"]?http|@import", page)
    assert '<th scope="row">gradual</th>' in page
    for file in ("toy_labels.svg", "toy_seconds.svg"):
        assert f"({file})" in Path("report/toy.md").read_text()
        assert Path("report", file).read_text().startswith("<svg")


def test_report_is_the_same_for_the_same_results(plan: Plan) -> None:
    files = ["toy.md", "toy.html", "toy_cells.csv", "toy_summary.csv", "toy_labels.svg", "toy_seconds.svg"]
    report(plan)
    first = [Path("report", file).read_bytes() for file in files]
    report(plan)
    assert [Path("report", file).read_bytes() for file in files] == first


def test_single_strategy_has_no_rival_in_the_headline() -> None:
    plan = Plan(toy_study(strategies={"scratch": STRATEGIES["scratch"]}, tuning=None), Path("logs"))
    pretend_all(plan.final(), accuracy)
    assert headline(Outcomes(plan)) == "At sizes 2 and 4 scratch has no rival."
    assert "Size 2: scratch has no rival." in report(plan)


def test_single_seed_is_reported_without_intervals() -> None:
    plan = Plan(toy_study(seeds=[0], tuning=None), Path("logs"))
    pretend_all(plan.final(), accuracy)
    text = report(plan)
    assert "no difference shown" in text
    assert "inf" not in text
    assert "nan" not in text
    assert "Nothing was tuned" in text
    assert "Test accuracy, %: of one seed. Columns: `data.examples_per_class`" in text
    assert "1 seed can show no difference" in text


def test_columns_of_a_study_without_sizes_are_not_named() -> None:
    plan = Plan(toy_study(sizes=[None], size_key=None, seeds=[0, 1], tuning=None), Path("logs"))
    pretend_all(plan.final(), accuracy)
    assert "means with 95 % t intervals over 2 seeds. The best mean of each column is bold." in report(plan)


def test_report_says_which_sizes_were_tuned_and_nothing_of_training_sets_where_there_is_one() -> None:
    plan = Plan(toy_study(sizes=[1, 2, 4], seeds=[0, 1], tuning=Tuning([0.001, 0.01], sizes=[2])), Path("logs"))
    pretend_all([*plan.tuning(), *plan.final()], accuracy)
    text = report(plan)
    assert "was chosen for each row of size 2, of which the nearest counts for each other size, by the" in text
    assert "the smaller training sets are parts of the larger ones" in text
    assert [line.count("↓") + line.count("↑") for line in text.splitlines() if line.startswith("| full | ")][-3:] == [
        0,
        1,
        0,
    ]
    plan = Plan(toy_study(sizes=[1, 2], size_key="model.target_epsilon", seeds=[0, 1], tuning=None), Path("logs"))
    for cell in plan.final():
        pretend(cell, accuracy(cell), data={"train_examples": 9, "fingerprints": {"train": "a"}})
    text = report(plan)
    assert "the smaller training sets" not in text
    assert "Checkpoints were chosen on a hold-out" in text


def test_null_of_another_setting_has_no_place_on_the_curve_and_one_size_is_no_training_set() -> None:
    for sizes, key in (([1.0, 3.0, None], "model.target_epsilon"), ([100], "data.max_tokens")):
        plan = Plan(toy_study(sizes=sizes, size_key=key, seeds=[0, 1], tuning=None), Path("logs"))
        for cell in plan.final():
            pretend(cell, accuracy(cell), data={"train_examples": 90, "fingerprints": {"train": "a"}})
        assert f"Columns: `{key}`. " in report(plan)
        assert ">0<" not in plots.learning_curve(Outcomes(plan)).partition("test accuracy")[2].partition(key)[0]


def test_sizes_with_equally_many_examples_are_sizes_of_the_data_all_the_same() -> None:
    plan = Plan(toy_study(sizes=[2, 4, None], seeds=[0, 1], tuning=None), Path("logs"))
    for cell in plan.final():
        count = 12 if cell.size == 2 else 24  # four of a class are all there are
        pretend(cell, accuracy(cell), data={"train_examples": count, "fingerprints": {"train": "a"}})
    assert "|  | 2 (12) | 4 (24) | all (24) |" in report(plan)


@pytest.mark.parametrize(("key", "labels"), [("model.target_epsilon", False), ("data.examples_per_class", True)])
def test_sizes_that_are_another_setting_are_named_by_it_and_not_as_labels(key: str, labels: bool) -> None:
    plan = Plan(toy_study(sizes=[1.0, 3.0], size_key=key, seeds=[0, 1], tuning=None), Path("logs"))
    for cell in plan.final():
        count = int(cell.size or 0) * 6 if labels else 45_000
        pretend(cell, accuracy(cell), data={"train_examples": count, "fingerprints": {"train": "a"}})
    text = report(plan)
    curves, panels = plots.learning_curve(Outcomes(plan)), plots.accuracy_over_seconds(Outcomes(plan))
    assert ("Columns: `model.target_epsilon`. " in text) == ("|  | 1.0 | 3.0 |" in text) == (not labels)
    assert ("Means over `model.target_epsilon`, with" in text) == (">model.target_epsilon<" in curves) == (not labels)
    assert (">model.target_epsilon 3.0<" in panels) == (not labels)
    assert ("(training labels)" in text) == (">training labels<" in curves) == (">18 labels<" in panels) == labels
    assert (">45,000<" in curves) is False


def test_study_by_a_loss_names_the_lowest_and_gives_losses_as_they_are() -> None:
    study = toy_study(strategies=STRATEGIES, seeds=[0, 1, 2, 3, 4], metric="loss", tuning=Tuning([0.001, 0.01]))
    plan = Plan(study, Path("logs"))
    pretend_all(plan.final(), accuracy)  # whose losses are 1 less the accuracy
    pretend_all(plan.tuning(), lambda cell: 0.9 if cell.value == 0.01 else 0.5)
    text = report(plan)
    assert set(Outcomes(plan).choices.values()) == {0.01}
    losses = {
        name: [1 - accuracy(cell) for cell in plan.final() if cell.name.startswith(f"{name}-size_2")] for name in GAINS
    }
    means = {name: sum(values) / 5 for name, values in losses.items()}
    lead = means["gradual"] - means["full"]
    assert f"At size 2 **gradual** wins, {lead:+.4f} (-0.0" in text
    assert ") in loss over full, its closest rival (p < 0.001)" in text
    assert "Test loss: means with 95 % t intervals over 5 seeds. Lower is better." in text
    assert f"| gradual | **{means['gradual']:.4f} ± " in text
    assert f"| full | 2 | {means['full'] - means['scratch']:+.4f} | " in text
    assert "gradual" in Outcomes(plan).pareto_front(2)
    assert "%" not in text.replace("95 %", "")


@pytest.mark.parametrize(("metric", "mode"), [("psnr", None), ("gain", "max")])
def test_metric_that_is_no_share_is_given_as_it_is(metric: str, mode: str | None) -> None:
    plan = Plan(toy_study(metric=metric, mode=mode, seeds=[0, 1], tuning=None), Path("logs"))
    for cell in plan.final():
        pretend(cell, 0.5, test={f"test/{metric}": 31.5 + cell.seed})
    text = report(plan)
    assert f"Test {metric}: means" in text
    assert "32.0000" in text
    assert "%" not in text.partition("| --- |")[0].partition("Test")[2].replace("95 %", "")


def test_direction_of_a_study_is_asked_for_where_its_metric_does_not_say() -> None:
    assert toy_study(metric="gain", mode="min").is_higher_better is False
    with pytest.raises(UserError, match="mode of the study is not given, and the name gain does not say"):
        check(toy_study(metric="gain"))
    with pytest.raises(UserError, match="mode of the study is max, and a lower loss is better"):
        check(toy_study(metric="loss", mode="max"))


def test_level_of_a_winner_is_divided_by_the_sizes_where_there_are_several(plan: Plan) -> None:
    assert "in a paired t test, at 0.05 divided by the 2 sizes: a wrong winner is named, at any size, in at" in report(
        plan
    )
    single = Plan(toy_study(strategies=STRATEGIES, sizes=[2], seeds=[0, 1, 2, 3, 4]), Path("logs"))
    pretend_all([*single.tuning(), *single.final()], accuracy)
    assert "in a paired t test, at 0.05: a wrong winner is named in at most one study of twenty. Told" in report(single)


def test_report_says_how_small_a_difference_its_seeds_show(plan: Plan) -> None:
    assert re.search(
        r"5 seeds show a difference of \d\.\d\d points, by the spread of pairs so far, or a larger", report(plan)
    )


GROWING = {"strategies": {name: STRATEGIES[name] for name in ("scratch", "full")}, "sizes": [2], "until_decided": 6}


@pytest.mark.parametrize(("gain", "seeds"), [(0.2, 3), (0.0, 6)])
def test_study_adds_seeds_until_there_is_a_winner_or_no_seed_left(
    gain: float, seeds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def accuracy(cell: Cell) -> float:
        assert cell.arm is not None
        return 0.3 + (gain + 0.01 * (-1) ** cell.seed) * (cell.arm.strategy == "full")

    def run(plan: Plan) -> None:
        pretend_all([*plan.tuning(), *plan.final()], accuracy)

    study = toy_study(**GROWING, seeds=[0, 1, 2], tuning=Tuning([0.001], seeds=[4]))
    outcomes = run_until_decided(Plan(study, Path("logs")), run)
    assert outcomes.plan.seeds == [0, 1, 2, 3, 5, 6][:seeds]  # 4 is a seed of the tuning
    assert outcomes.is_decided == (gain > 0)
    assert "3 to 6 seeds show a difference of 1.8 standard deviations" in capsys.readouterr().out
    text = report(outcomes.plan)
    assert "Seeds were added until each size had a winner, from 3 up to 6" in text
    assert f"over {seeds} seeds" in text
    assert "Seeds were added until each size was decided. The corrected p counts these looks too" in text
    [row] = [outcome for outcome in outcomes if outcome.difference is not None]
    assert row.difference is not None
    assert row.corrected_p is not None
    assert row.corrected_p > row.difference.p or row.difference.p == 1  # of one comparison, in four looks
    # Started again, or reported only, it comes to the same seeds.
    again = run_until_decided(Plan(study, Path("logs")), lambda plan: None, only_begun=True)
    assert again.plan.seeds == outcomes.plan.seeds


def test_report_of_a_growing_study_adds_no_seed_that_was_not_begun() -> None:
    plan = Plan(toy_study(**GROWING, tuning=None), Path("logs"))
    pretend_all(plan.final(), lambda cell: 0.3 + 0.01 * (cell.seed % 2) * (cell.name[0] == "f"))
    assert run_until_decided(plan, lambda plan: None, only_begun=True).plan.seeds == plan.seeds


def test_limit_of_seeds_that_are_there_already_is_refused() -> None:
    with pytest.raises(UserError, match=r"^until_decided is 2: expected more than the 2 seeds of the study, or null$"):
        check(toy_study(until_decided=2))
