"""The report: what it says of many runs, of texts, and of runs that left little behind."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import fit_arguments, run_folder
from PIL import Image, ImageColor

from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.run_card import strategy_of
from lightning_transfer.report import run_report
from lightning_transfer.report.charts import Chart, Line, draw_legend, legend_height, line_chart
from lightning_transfer.report.drawing import PixelCanvas, SvgCanvas
from lightning_transfer.report.figures import ConfusionMatrix, Timeline, thinned, ticks
from lightning_transfer.report.palette import COLORS, SERIES, with_own_colors
from lightning_transfer.report.run_files import Run, read_run
from lightning_transfer.report.run_report import report


def test_report_of_two_runs_lists_both_and_needs_no_other_file(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        main(fit_arguments(image_folder, "--seed_everything", seed, "--test_after_fit", "true"))
    main(["report", "logs", "--output", "page.html"])
    assert "report of 2 runs: page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    results = json.loads((run_folder() / "results.json").read_text())
    assert f"{results['test']['test/accuracy']:.4f}" in page
    assert page.count('<details class="run">') == 2
    assert "default/version_0" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in re.sub(r"data:[^\"]*", "", page)


def test_report_of_texts_shows_tokens_and_the_worst_documents(own_folder: Path) -> None:
    main(
        [
            *("fit", "--config", "configs/quickstart_text.yaml", "--trainer.accelerator", "cpu"),
            *("--trainer.max_epochs", "1", "--data.examples_per_class", "60", "--test_after_fit", "false"),
        ]
    )
    folder = run_folder("quickstart_text")
    main(["report", str(folder)])
    page = (folder / "report.html").read_text()
    assert page.count('<p class="tokens">') == 6
    assert "Top losses" in page
    assert "Gradient x input" in page


def test_report_says_of_which_epoch_pictures_and_table_are(image_folder: Path) -> None:
    # The best epoch is neither the first nor the last.
    moving = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.04", "--trainer.max_epochs", "4")
    main(fit_arguments(image_folder, *moving, "--dashboards.embeddings", "0"))
    results = json.loads((run_folder() / "results.json").read_text())
    accuracies = [entry["val/accuracy"] for entry in results["validations"]]
    losses = [entry["val/loss"] for entry in results["validations"]]
    best = accuracies.index(max(accuracies))
    assert 0 < best < 3
    for has_record in (True, False):  # also of a run that was killed
        main(["report", str(run_folder())])
        page = (run_folder() / "report.html").read_text()
        assert f'data-value="{best + 1}">{best + 1}</td>' in page
        assert f"{losses[best]:.4f}</td>" in page
        for title in ("Confusion matrix of the validation", "Reliability of the confidences", "Top losses: the worst"):
            [caption] = set(re.findall(rf"<figcaption>({title}[^<]*)</figcaption>", page))
            assert caption.endswith(f"(epoch 4; the table is of epoch {best + 1}, the best)")
        if has_record:
            (run_folder() / "results.json").unlink()


def test_report_tells_validations_of_one_epoch_apart() -> None:
    run = Run("run", {"val/loss": [(4, 1.0), (9, 2.0)], "epoch": [(4, 0), (9, 0)]}, steps={"validation/x": 9})
    assert run_report._dated("Top", run, "validation/x") == (
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
    chart = line_chart("<loss>", {"<a>": [(0, 1.0), (1, float("nan")), (2, 3.0)], "b": [(0, 2.0)]})
    assert "<loss>" not in chart
    assert "<a>" not in chart
    assert not re.search(r"\bnan\b", chart)
    assert line_chart("empty", {"a": [(0, float("nan"))]}) == ""


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


def test_bands_lie_behind_all_lines_and_within_the_axes() -> None:
    band = [(0.0, -5.0), (1.0, 0.0), (1.0, 20.0), (0.0, 9.0)]
    lines = [Line(name, [(0.0, 1.0), (1.0, 2.0)], "ink", number, band) for number, name in enumerate("ab")]
    parts = [part for part in drawn(Chart(lines)) if part.tag == "polygon" or part.get("stroke") == "var(--ink)"]
    assert [part.get("opacity") for part in parts] == ["0.15", "0.15", *[None] * 6]
    assert all(0 < float(point.split(",")[1]) < 200 for point in parts[0].get("points", "").split())


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
    assert 'class="key series-0">s0<' in page
    assert 'class="key series-2">strategy not recorded<' in page


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


@pytest.mark.parametrize("classes", [2, 40, 100])
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
