"""The report: what it says of many runs, of texts, and of runs that left little behind."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import UNBOUNDED, fit_arguments, run_folder
from PIL import Image, ImageColor

from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.run_card import strategy_of
from lightning_transfer.report import run_section
from lightning_transfer.report.charts import Chart, Line, draw_legend, legend_height
from lightning_transfer.report.drawing import PixelCanvas, SvgCanvas
from lightning_transfer.report.figures import ConfusionMatrix, Timeline, thinned, ticks
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.palette import COLORS, SERIES, with_own_colors
from lightning_transfer.report.run_files import Run, read_run
from lightning_transfer.report.run_report import report
from lightning_transfer.report.tasks import brief_names, tasks_of


def test_report_of_two_runs_lists_both_and_needs_no_other_file(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        main(fit_arguments(image_folder, "--seed_everything", seed, "--test_after_fit", "true"))
    main(["report", "logs", "--output", "page.html"])
    assert "report of 2 runs: page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    results = json.loads((run_folder() / "results.json").read_text())
    assert f"{100 * results['test']['test/accuracy']:.2f}" in page
    assert page.count('<details class="run">') == 2
    assert "default/version_0" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in re.sub(r"data:[^\"]*", "", page)


def test_report_of_texts_shows_tokens_and_the_worst_documents(own_folder: Path) -> None:
    main(
        [
            *("fit", "--config", "configs/quickstart_text.yaml", "--trainer.accelerator", "cpu"),
            *("--trainer.max_epochs", "1", "--data.examples_per_class", "60", "--test_after_fit", "false", *UNBOUNDED),
        ]
    )
    folder = run_folder("quickstart_text")
    main(["report", str(folder)])
    page = (folder / "report.html").read_text()
    assert page.count('<p class="tokens">') == 6
    assert "Top losses" in page
    assert "Gradient x input" in page


def test_report_shows_the_best_epoch_in_its_table_and_pictures(image_folder: Path) -> None:
    # The best epoch is neither the first nor the last.
    moving = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.04", "--trainer.max_epochs", "4")
    main(fit_arguments(image_folder, *moving, *UNBOUNDED, "--dashboards.embeddings", "0"))
    results = json.loads((run_folder() / "results.json").read_text())
    accuracies = [entry["val/accuracy"] for entry in results["validations"]]
    losses = [entry["val/loss"] for entry in results["validations"]]
    best = accuracies.index(max(accuracies))
    assert 0 < best < 3
    for has_record in (True, False):  # also of a run that was killed
        main(["report", str(run_folder())])
        page = (run_folder() / "report.html").read_text()
        assert f'data-value="{best + 1}">{best + 1} <span class="muted">of 4</span></td>' in page
        assert f"{losses[best]:.4f}</td>" in page
        for title in ("Confusion matrix of the validation", "Reliability of the confidences", "Top losses: the worst"):
            [caption] = set(re.findall(rf"<figcaption>({title}[^<]*)</figcaption>", page))
            assert caption.endswith(f"(epoch {best + 1}, the best)")
        if has_record:
            (run_folder() / "results.json").unlink()


def test_report_tells_validations_of_one_epoch_apart() -> None:
    run = Run("run", {"val/loss": [(4, 1.0), (9, 2.0)], "epoch": [(4, 0), (9, 0)]}, steps={"validation/x": 9})
    assert run_section._dated("Top", run, "validation/x") == (
        "Top (epoch 1, step 10; the table is of epoch 1, step 5, the best)"
    )


def test_report_of_a_run_without_dashboards_has_its_curves(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--dashboards", "null", "--trainer.max_epochs", "2"))
    record, [events] = run_folder() / "results.json", run_folder().glob("events.*")
    curves = read_run(run_folder(), "run").scalars
    for missing in (record, events):  # as of a run that was killed, and of one with another logger
        missing.rename("missing")
        main(["report", str(run_folder())])
        page = (run_folder() / "report.html").read_text()
        assert "val/loss" in page
        assert "Confusion" not in page
        found = read_run(run_folder(), "run").scalars
        for tag in ("val/loss", "val/accuracy"):
            assert found[tag] == [(step, pytest.approx(value)) for step, value in curves[tag]]
        Path("missing").rename(missing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is no folder: give the folder of a run"),
        (["configs"], "no run in 'configs': expected event files"),
    ],
)
def test_report_of_nothing_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["report", *arguments])
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err


def test_chart_escapes_names_and_leaves_out_what_is_no_number() -> None:
    chart = Curves("<loss>", {"<a>": [(0, 1.0), (1, float("nan")), (2, 3.0)], "b": [(0, 2.0)]}).html()
    assert "<loss>" not in chart
    assert "<a>" not in chart
    assert not re.search(r"\bnan\b", chart)
    assert Curves("empty", {"a": [(0, float("nan"))]}).html() == ""


def test_chart_names_its_axes_and_has_its_numbers_in_a_table() -> None:
    page = Curves("Accuracy", {"a": [(0, 0.25), (9, 0.75), (19, 0.5)]}, "accuracy, %", True, best={"a": 9}).html()
    assert [">accuracy, %<" in page, ">training step<" in page] == [True, True]
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page)
    cells = re.findall(r'<td>([^<]*) <span class="muted">\(([^<]*)\)</span></td>', page)
    assert dict(zip(heads[1:], cells, strict=True)) == {
        **{"first": ("25", "0"), "best epoch": ("75", "9"), "lowest": ("25", "0")},
        **{"highest": ("75", "9"), "last": ("50", "19")},
    }
    assert "best epoch" in page[: page.index("<details")]  # the star has its key beside the chart


@pytest.mark.parametrize("values", [[0.97, 1.0, 0.99], [0.0, 0.01, 0.0], [1.0], [0.0]])
def test_axis_of_an_accuracy_stays_within_0_and_100_percent(values: list[float]) -> None:
    page = Curves("Accuracy", {"a": list(enumerate(values))}, "accuracy, %", True).html()
    numbers = re.findall(r'text-anchor="end" dominant-baseline="central">([\d.]+)<', page)
    assert numbers
    assert all(0 <= float(number) <= 100 for number in numbers)
    assert all(0 <= float(y) <= 250 for y in re.findall(r"[\d.]+,(-?[\d.]+)", page))


def test_lines_that_coincide_differ_in_more_than_their_color() -> None:
    lines = {name: [(0, 1.0), (5, 2.0)] for name in "abcd"}
    page = Curves("Loss", lines, "loss").html()
    strokes = re.findall(r'<polyline points="[^"]*" fill="none" (stroke="var\(--series[^>]*)>', page)
    patterns = [re.findall(r'stroke-dasharray="([^"]*)"', stroke) for stroke in strokes if "1.8" in stroke]
    of_lines = patterns[:4]
    assert len({tuple(pattern) for pattern in of_lines}) == 4
    assert patterns[4:] == of_lines  # the legend shows the same


def test_dashed_line_of_pixels_is_drawn_for_the_length_of_its_dashes() -> None:
    canvas = PixelCanvas(100, 20)
    canvas.line([(0, 10), (50, 10), (100, 10)], "bad", 2, dashes=(12, 8))
    dark = [bool(pixel[1] < 200) for pixel in canvas.pixels()[20]]
    assert sum(dark) == pytest.approx(0.6 * len(dark), abs=12)
    assert dark[4]
    assert not dark[32]
    assert dark[100]  # a dash goes on around the point in the middle


def drawn(chart: Chart) -> ElementTree.Element:
    canvas = SvgCanvas(400, 200, "a chart")
    chart.draw(canvas, 0, 0, 400, 200)
    return ElementTree.fromstring(canvas.svg())


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    line = Line("a", [(0.01, 1.0), (0.1, 3.0), (1.0, 2.0)], "ink")
    svg = drawn(Chart([line], has_log_x=True))
    [path] = [part.get("points", "") for part in svg.iter("polyline") if part.get("stroke") == "var(--ink)"]
    left, middle, right = (float(point.split(",")[0]) for point in path.split())
    assert middle - left == pytest.approx(right - middle, abs=0.11)
    words = [part.text for part in svg.iter("text")]
    assert [word for word in ("0.01", "0.1", "1") if word in words] == ["0.01", "0.1", "1"]


def test_numbers_at_an_axis_do_not_touch_each_other() -> None:
    sizes = [100, 101, 5000, 5100, 9000]
    svg = drawn(Chart([Line("a", [(size, 1.0) for size in sizes], "ink")], x_ticks=sizes, has_log_x=True))
    assert [part.text for part in svg.iter("text") if part.get("text-anchor") == "middle"][:2] == ["100", "5,000"]


def test_intervals_are_bars_within_the_limits_of_the_axis_and_single_values_are_small() -> None:
    line = Line("a", [(0.0, 60.0)], "ink", 0, bars=[(0.0, -5.0, 120.0)], single=[(0.0, 50.0), (0.0, 70.0)])
    parts = drawn(Chart([line], y_limits=(0, 100)))
    [bar] = [part for part in parts.iter("polyline") if "-5 to 120" in "".join(part.itertext())]
    places = [float(point.split(",")[1]) for point in bar.get("points", "").split()]
    assert all(10 < y < 190 for y in places)
    widths = []
    for mark in parts.iter("polygon"):
        xs = [float(point.split(",")[0]) for point in mark.get("points", "").split()]
        widths.append(max(xs) - min(xs))
    assert len(widths) == 3
    assert widths[0] == widths[1] < 0.7 * widths[2]


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_legend_has_room_for_all_names(count: int) -> None:
    lines = [Line(f"a rather long name {number}", [], SERIES[number % 8], number) for number in range(count)]
    canvas = SvgCanvas(700, height := legend_height(lines, 700), "legend")
    draw_legend(canvas, lines, 0, 0, 700)
    places = [
        (float(text.get("y", "")), float(text.get("x", "")))
        for text in ElementTree.fromstring(canvas.svg()).iter("text")
    ]
    assert len(places) == count
    assert places == sorted(places)
    assert places[-1][0] < height
    assert all(x2 - x1 > 150 for (y1, x1), (y2, x2) in pairwise(places) if y1 == y2)


def test_figure_as_a_file_has_its_own_colors_for_light_and_for_dark() -> None:
    canvas = SvgCanvas(100, 50, "all > colours")
    for name in COLORS:
        canvas.rectangle(0, 0, 1, 1, name)
        canvas.line([(0, 0), (1, 1)], name)
    svg = ElementTree.fromstring(with_own_colors(canvas.svg()))
    text = ElementTree.tostring(svg, "unicode")
    assert "var(" not in text
    assert text.count("<ns0:title") == 0
    for light, dark in COLORS.values():
        assert f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' in text
    assert len({light for light, _ in COLORS.values()}) == len(COLORS)


def test_comparison_of_many_runs_is_whole_where_few_have_a_curve() -> None:
    runs = [Run(f"run{number}", data={"run/hyperparameters": {"strategy": f"s{number % 2}"}}) for number in range(9)]
    runs[0].scalars["val/accuracy"] = [(1, 0.5), (2, 0.6)]
    runs += [Run("without dashboards", scalars={"val/accuracy": [(1, 0.5), (2, 0.4)]})]
    page = report(runs, "many")
    for element in ("figure", "figcaption", "span", "svg"):
        assert page.count(f"<{element}") == page.count(f"</{element}>"), element
    keys = re.findall(r'<span class="key"><svg.*?</svg>([^<]*)<', page)
    assert {"s0", "s1", "strategy not recorded", "best epoch"} == set(keys)


def a_run(name: str, accuracy: float, data: str = "target", **record: object) -> Run:
    facts = {"fingerprints": {"train": data}, "train_examples": 240, "test_examples": 1800}
    results = {"data": facts, "test": {"test/accuracy": accuracy}, "validation": {"val/accuracy": 0.5}, **record}
    settings = {"run/hyperparameters": {"strategy": record.pop("strategy", "scratch")}}
    return Run(name, data=settings, results=results)


def test_page_begins_with_what_was_found_and_has_the_source_task_last() -> None:
    weights = "logs/moved/pretrain-source-seed_0/checkpoints/best.ckpt"
    runs = [
        a_run("pretrain-source-seed_0", 0.92, "source", command="fit --config=source"),
        a_run("gradual-seed_0", 0.68, strategy="gradual", command="fit --config=gradual", init_from=weights),
        a_run("scratch-seed_0", 0.35, command="fit --config=scratch"),
    ]
    page = report(runs, "moved")
    [sentence] = re.findall(r'<p class="headline">(.*?)</p>', page)
    assert sentence.startswith("gradual beats scratch by 33.0 ± 3.1 points of accuracy on 1,800 test examples (95 %")
    assert page.index("<h1>") < page.index(sentence) < page.index("<table>")
    assert re.findall("<h2>(.*?)</h2>", page) == ["Target task", "Source task"]
    target, source = page.split("<h2>Source task</h2>")
    assert [name in target for name in (">gradual<", ">scratch<", ">pretrain-source-seed_0<")] == [True, True, False]
    assert "pretrain-source-seed_0 reaches 92.0 % test accuracy (95 % interval 90.7 to 93.2 over 1,800" in source
    heads = re.findall(r"<button>(.*?)</button>", target)
    assert heads[:2] == ["run", "test accuracy, %"]
    assert '<strong>68.00</strong> <span class="muted">65.8 to 70.1</span>' in target


def test_repetitions_on_other_seeds_are_one_arm_of_the_conclusion() -> None:
    luck = {0: 0.0, 1: 0.02, 2: 0.04}
    runs = [
        a_run(f"{name}-seed_{seed}", level + extra + luck[seed], strategy=name, seed=seed,
              command=(f"fit --config={name}.yaml --seed_everything {seed} --version {name}-seed_{seed} --data.size=2",
                       f"fit --data.size 2 --version=v{seed} --seed_everything={seed} --config {name}.yaml")[seed % 2])
        for name, level in (("full", 0.6), ("scratch", 0.4))
        for seed, extra in ((0, 0.0), (1, 0.001), (2, 0.002 if name == "full" else 0.0))
    ]  # fmt: skip
    page = report(runs, "repeated")
    assert "full beats scratch, its closest rival, by 20.1 ± 0.3 points of accuracy (95 % interval over n=3" in page


def test_untested_runs_are_not_compared() -> None:
    runs = [a_run(f"version_{place}", 0.0, test=None) for place in range(2)]
    page = report(runs, "untested")
    assert "version_0 is best with 50.0 % validation accuracy. No run was tested, so nothing is concluded" in page


def test_diverged_run_is_never_the_best_and_accuracies_in_percent_stay() -> None:
    steps = {"diverged": [math.nan], "good": [80.0, 93.5]}
    runs = [Run(name, scalars={"val/accuracy": list(enumerate(values))}) for name, values in steps.items()]
    page = report(runs, "diverged")
    assert "good has 93.5 validation accuracy so far" in page
    [task] = tasks_of(runs)
    assert [run.name for run in task.ranked] == ["good", "diverged"]


def test_runs_without_facts_of_their_data_are_one_task() -> None:
    assert [task.title for task in tasks_of([Run("a"), Run("b")])] == ["Results"]
    other = a_run("folder/version_0", 0.5)
    assert [task.title for task in tasks_of([Run("a"), other])] == ["Task of a", "folder"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["gradual-seed_0", "scratch-seed_0"], ["gradual", "scratch"]),
        (["logs/a/version_0", "logs/a/version_1"], ["version_0", "version_1"]),
        (["a/full-size_4-seed_0", "a/full-size_4-seed_1"], ["seed_0", "seed_1"]),
        (["a", "a-b"], ["a", "a-b"]),
        (["a-b", "a-c-b"], ["b", "c-b"]),
        (["only-one"], ["only-one"]),
        (["one", "two"], ["one", "two"]),
    ],
)
def test_names_lose_what_all_of_them_share(names: list[str], expected: list[str]) -> None:
    assert list(brief_names(names).values()) == expected


def luminance(color: str) -> float:
    channels = [value / 255 for value in ImageColor.getrgb(color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(color: str, ground: str) -> float:
    """Source: WCAG 2.2, which asks for 4.5 of text and for 3 of what a figure needs."""
    darker, lighter = sorted([luminance(color), luminance(ground)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("shade", [0, 1])
def test_colors_stand_out_from_the_page(shade: int) -> None:
    ground = COLORS["paper"][shade]
    least = dict.fromkeys((*SERIES, "accent", "second"), 3.0) | dict.fromkeys(("ink", "muted", "good", "bad"), 4.5)
    assert {name: contrast(COLORS[name][shade], ground) for name in least  # type: ignore[index]
            if contrast(COLORS[name][shade], ground) < least[name]} == {}  # type: ignore[index]  # fmt: skip


@pytest.mark.parametrize(
    ("span", "expected"),
    [((0, 10), [0, 2, 4, 6, 8, 10]), ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]), ((3, 7), [3, 4, 5, 6, 7])],
)
def test_ticks_are_round_numbers(span: tuple[float, float], expected: list[float]) -> None:
    assert list(ticks(*span, 6)) == pytest.approx(expected)


def test_thinning_keeps_the_ends() -> None:
    entries = [(step, [0.0]) for step in range(9)]
    assert [step for step, _ in thinned(entries, 8)] == [0, 2, 4, 6, 8]
    assert thinned(entries, 9) == entries


def test_most_confused_pairs_leave_out_what_is_right() -> None:
    matrix = ConfusionMatrix([[8, 2, 0], [0, 10, 0], [5, 0, 5]], ["a", "b", "c"])
    assert matrix.most_confused(5) == [("c", "a", 5, 0.5), ("a", "b", 2, 0.2)]


@pytest.mark.parametrize("classes", [2, 40, 100, 1000])
def test_confusion_matrix_of_any_number_of_classes_stays_within_a_screen(classes: int) -> None:
    matrix = ConfusionMatrix([[1] * classes] * classes, [f"a long name of class {number}" for number in range(classes)])
    assert max(matrix.size) <= 800


def test_timeline_without_rates_is_all_frozen() -> None:
    timeline = Timeline(["stem", "head"], [(0, [])], [(0, [0.0, 0.0])], end=10, total=10)
    canvas = PixelCanvas(*timeline.size)
    timeline.draw(canvas)
    right = Image.fromarray(canvas.pixels()).crop((800, 80, 1500, 180))
    expected = {ImageColor.getrgb(COLORS[name][0]) for name in ("frozen", "paper")}
    assert {color for _, color in right.getcolors()} == expected
    # Of a run that went on from its end, where nothing was left to train, none were noted.
    Timeline(["stem", "head"], [(0, [])], end=10, total=10).draw(PixelCanvas(*timeline.size))


GRADUAL = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"schedule": "gradual"}}


@pytest.mark.parametrize(
    ("config", "strategy"),
    [
        ({}, "scratch"),
        ({"init_from": "a.ckpt"}, "full"),
        ({"init_from": "a.ckpt", "model": {"init_args": {"lr_decay": 2.6}}}, "full_discriminative"),
        ({"init_from": "a.ckpt", "trainer": {"callbacks": [GRADUAL]}}, "gradual"),
        ({"trainer": {"callbacks": [GRADUAL]}, "model": {"init_args": {"lr_decay": 2.6}}}, "gradual_discriminative"),
    ],
)
def test_strategy_has_the_name_of_its_config(config: dict[str, object], strategy: str) -> None:
    assert strategy_of(config) == strategy
