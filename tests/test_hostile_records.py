"""Records and event files with anything in any place: it is text on a page, and costs its own part alone."""

import ast
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.events import Boards, add_data, add_picture
from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.document import Bullets, Heading, Paragraph, Table, to_html
from lightning_transfer.report.expected_content import DATA, Results, expected
from lightning_transfer.report.explanation_page import explanation_page
from lightning_transfer.report.figures import ConfusionMatrix, Reliability, Timeline
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.run_report import report

PACKAGE = Path(__file__).parents[1] / "lightning_transfer"
EVIL = "\"'></style></title></pre><evil onevil=1>`**"
FACTS = {"train_examples": 90, "test_examples": 30, "training_examples_by_class": {"a": 45, "b": 45}}
RESULTS = {
    **{"test": {"test/accuracy": 0.5, "test/loss": 1.0}, "validation": {"val/accuracy": 0.5, "val/loss": 1.0}},
    **{"selected_by": "val/accuracy", "data": FACTS | {"fingerprints": {"train": "x"}}, "seed": 3, "epochs": 2},
    **{"fit_seconds": 2.5, "init_from": "logs/a/checkpoints/best.ckpt", "command": "lightning-transfer fit"},
    "unfreezing": {"because": "the training ended in phase 1", "never_trained": ["stem"]},
    "validations": [{"epoch": 0, "step": 9, "val/loss": 1.0}],
}
DATA_OF_A_RUN = {
    "run/hyperparameters": {"strategy": "full", "seed": 3, "learning rate": 0.1},
    "run/facts": FACTS,
    "run/card_data": {
        **{"commands": ["lightning-transfer fit"], "versions": {"torch": "2"}, "commit": "abc", "plan": "phase 1"},
        "configuration": "seed_everything: 3",
    },
    "phase/timeline_data": asdict(Timeline(["stem", "head"], [(0, ["head"])], [(0, [0.0, 0.1])], 9, 9, 3)),
    "change/layer_groups_data": asdict(LayerGroupChanges(["stem", "head"], [0.1, 0.2], [0.9, None], 8)),
    "validation/confusion_matrix_data": asdict(ConfusionMatrix([[3, 1], [2, 4]], ["a", "b"])),
    "validation/reliability_data": asdict(Reliability([3.0, 7.0], [1.0, 6.0], [1.5, 6.5])),
    "validation/top_losses_data": [
        {"label": "a", "prediction": "b", "confidence": 0.9, "loss": 2.0, "text": "a film"},
    ],
    "attribution/tokens_data": [{"tokens": ["a", "film"], "scores": [0.5, -0.5], "prediction": "a", "label": "b"}],
}
SOUND = json.loads(json.dumps({"results": RESULTS, "data": DATA_OF_A_RUN}))
NOT_SHOWN = "Not shown: the files of this run hold what no run has written"


def paths(content: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value, at any depth."""
    if start:
        yield start
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from paths(content[key], (*start, key))


def page_of(content: Any, copies: int = 2) -> tuple[str, list[str]]:
    """The page of some runs with that content, and what was left out."""
    wrong: list[str] = []
    results = expected(content["results"], Results, "results.json", wrong) or {}
    data = {tag: expected(part, DATA[tag], tag, wrong) for tag, part in content["data"].items()}
    data = {tag: part for tag, part in data.items() if part is not None}
    scalars = {"val/loss": [(3, 1.0), (6, 0.9)], "val/accuracy": [(3, 0.4), (6, 0.5)], "epoch": [(3, 0.0), (6, 1.0)]}
    runs = [
        Run(f"a/{place}", scalars, {}, copy.deepcopy(data), dict.fromkeys(data, 6), results) for place in range(copies)
    ]
    return report(runs, "logs"), wrong


class Elements(HTMLParser):
    """Collects the names of elements and of attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}


anything = st.recursive(
    st.sampled_from([None, True, 0, -1, 10**400, 2**70, 1e308, float("nan"), float("-inf"), "", EVIL, "\ud800", "'"]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from([EVIL, "step"]), parts, max_size=2),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from([*paths(SOUND)]), anything)
def test_whatever_stands_in_any_place_is_text_or_left_out(path: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy(SOUND)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    if not isinstance(content["data"], dict):
        return
    page, _ = page_of({**content, "data": {tag: part for tag, part in content["data"].items() if tag in DATA}})
    assert not {"evil", "onevil"} & Elements(page).names
    page.encode()


@pytest.mark.parametrize("copies", [1, 2])
def test_sound_content_is_shown_as_a_whole(copies: int) -> None:
    page, wrong = page_of(SOUND, copies)
    assert wrong == []
    assert NOT_SHOWN not in page
    for words in ("a film", "Never trained: stem", "50.00", "abc", "torch 2", "Confusion matrix", "90 training"):
        assert words in page


def test_each_text_of_a_record_is_shown_escaped() -> None:
    def with_evil(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: with_evil(part) for key, part in content.items()}
        if isinstance(content, list):
            return [with_evil(part) for part in content]
        return content + EVIL if isinstance(content, str) else content

    page, wrong = page_of(with_evil(SOUND))
    assert wrong == []
    assert page.count("&lt;evil onevil=1&gt;") > 20
    assert not {"evil", "onevil"} & Elements(page).names


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", ['"><script>alert(1)</script>'], "results.json.seed is ['\"><script>alert(1)</script>']"),
        ("epochs", "<b>2</b>", "results.json.epochs is '<b>2</b>'"),
        ("fit_seconds", "soon", "results.json.fit_seconds is 'soon'"),
        ("test", {"test/accuracy": "high"}, "results.json.test.test/accuracy is 'high'"),
        ("validations", [{"step": 3, "val/loss": "low"}], "results.json.validations.0.val/loss is 'low'"),
        ("data", [], "results.json.data is []"),
    ],
)
def test_what_no_run_writes_is_left_out_of_the_report_and_said(
    key: str, value: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("logs/a/version_0")
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(RESULTS | {key: value}))
    main(["report", "logs"])
    line = f"a/version_0 is shown without what no run writes: {said}"
    assert capsys.readouterr().err.splitlines() == [line]
    page = Path("logs/report.html").read_text()
    assert "<script>alert" not in page
    assert str(RESULTS["command"]) not in page or "a/version_0" in page


def test_damaged_data_of_an_event_file_cost_their_own_part(capsys: pytest.CaptureFixture[str]) -> None:
    boards = Boards([TensorBoardLogger("logs", "a", "version_0")])
    for tag, content in SOUND["data"].items():
        add_data(boards, tag, content, 3)
    add_data(boards, "run/card_data", SOUND["data"]["run/card_data"] | {"commands": 3}, 4)
    add_data(boards, "phase/timeline_data", {"groups": ["stem"], "rates": [[0, [0.1, 0.2]], [1, []]], "end": 2}, 4)
    add_picture(boards, "training/examples", np.zeros((4, 4, 3), np.uint8), 4)
    for writer in boards._writers:
        writer.flush()
    main(["report", "logs"])
    assert "run/card_data.commands is 3" in capsys.readouterr().err
    page = Path("logs/report.html").read_text()
    assert page.count(NOT_SHOWN) == 1  # the timeline, whose rates belong to fewer groups
    assert "Confusion matrix" in page
    assert "data:image/webp" in page


def test_document_and_explanation_escape_what_they_are_given() -> None:
    blocks = [Heading(EVIL), Paragraph(f"**{EVIL}** `{EVIL}`"), Bullets([EVIL]), Table([EVIL, EVIL], [[EVIL, EVIL]])]
    assert not {"evil", "onevil"} & Elements(to_html(EVIL, blocks)).names
    random = {"stages": [{"rank_correlation": 0.1, "randomised": [EVIL]}], "bound": 0.2, "passed": True}
    curves = {"shares": [0.0, 1.0], "deletion": {EVIL: [1.0, 0.0]}, "insertion": {"method": [0.0, 1.0]}}
    curves |= {"insertion_minus_deletion": {"method": 0.1, EVIL: 0.2}, "passed": False}
    sanity = {"passed": False, "randomisation": random | {"random_networks": EVIL}, "curves": curves}
    example = {"name": EVIL, "class": EVIL, "probabilities": {EVIL: 1.0}, "label": EVIL + "b", "explained": "other"}
    example |= {"attributions": {"m": {"words": [EVIL], "scores": [1.0]}}}
    example |= {"nearest": [{"label": EVIL, "cosine": 1.0, "text": EVIL}]}
    facts = {"run": EVIL, "examples": [example], "methods": [{"name": "m", "title": EVIL, "sanity": sanity}]}
    facts |= {"notes": [EVIL], "problem_type": EVIL, "chosen": EVIL, "network": EVIL, "sanity_on": EVIL, "layer": EVIL}
    page = explanation_page(facts, [None], [[None]])
    assert page.count("&lt;evil onevil=1&gt;") > 15
    assert not {"evil", "onevil"} & Elements(page).names


# What has HTML outside of Markup, or gives it more than a literal, and why nothing unescaped gets in.
EXCEPTIONS = {
    ("document.py", "_inline"): "marks a text that was escaped in the line before",
    ("page.py", "page"): "takes the style sheet, a constant",
    ("run_report.py", "report"): "takes the script, a constant",
    ("line_charts.py", "_sample"): "adds an attribute to an SVG element",
    ("palette.py", "with_own_colors"): "adds constants to an SVG element",
}
TAG = re.compile(r"(?<!\?P)</?(?!class )[a-z][a-z0-9]*[ >/]")  # no name in a pattern, and no <class 'int'>
ROOMS = [folder for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "data"]  # it has <unk> and others


def literals(node: ast.expr) -> bool:
    """Whether an expression is a literal, or one of two."""
    if isinstance(node, ast.IfExp):
        return literals(node.body) and literals(node.orelse)
    return isinstance(node, ast.Constant)


def test_all_html_in_the_code_is_a_literal_that_escapes_what_is_put_into_it() -> None:
    found = set()
    for file in (file for room in ROOMS for file in room.rglob("*.py")):
        tree = ast.parse(file.read_text())
        marked, documented = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Markup":
                if not all(map(literals, node.args)):
                    found.add((file.name, node.lineno))
                marked |= {id(part) for argument in node.args for part in ast.walk(argument)}
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                documented |= {id(part) for part in ast.walk(body[0])}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and TAG.search(node.value) and id(node) not in marked | documented:
                found.add((file.name, node.lineno))
    assert {place for place in map(function_of, found) if place not in EXCEPTIONS} == set()


def function_of(place: tuple[str, int]) -> tuple[str, str]:
    """The function around a line."""
    name, line = place
    [file] = PACKAGE.rglob(name)
    around = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return name, max(around, key=lambda node: node.lineno).name if around else str(line)
