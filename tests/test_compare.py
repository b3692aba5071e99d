"""docs/compare.md keeps its word: its programs do what they say, and its lines and words are those of the programs."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "compare.md").read_text()


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite of the benchmark."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("benchmarks.compare")


def test_tasks_are_those_of_the_page_of_tasks(compare: ModuleType) -> None:
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "docs" / "tasks.md").read_text(), re.MULTILINE)
    assert sorted(compare.TASKS.values()) == sorted(headings)


def test_page_has_the_lines_and_words_of_each_program(compare: ModuleType) -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d.*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(compare.TASKS.values())
    for task, title in compare.TASKS.items():
        counted = [compare.count(task, library) for library in compare.MODULES]
        shown = [tuple(map(int, re.findall(r"\d+", cell)[:2])) for cell in rows[title].split(" | ")]
        assert shown == counted, title


def test_words_are_all_that_a_reader_must_know(compare: ModuleType) -> None:
    shell = "lightning-transfer fit --config strategies/full \\\n    --data.path pictures --test_after_fit true --n 3\n"
    assert compare.words(".sh", shell) == {
        *("lightning-transfer", "fit", "config", "strategies", "full", "data", "path", "test_after_fit", "n")
    }
    python = """
import library.part as P
from other import function

class Mine(P.Base):
    size = 2
    def forward(self, images):
        return {"loss": P.loss(images, "mean")}

def prepare(rows):
    return [function(row, key="epoch") for row in rows]

result = Mine().fit(prepare, prepare=print)
"""
    assert compare.words(".py", python) == {
        *("library", "part", "P", "other", "function", "Base", "size", "forward", "loss", "mean", "key", "epoch"),
        *("fit", "prepare"),  # the name of an argument counts, although a function of the user's has it too
    }


def test_lines_are_counted_without_comments_and_empty_ones(compare: ModuleType) -> None:
    assert compare.count_lines("# a\n\nfit \\\n    --more\n  # b\n") == 2


def test_program_that_does_not_do_its_task_is_no_measurement(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compare, "PROGRAMS", tmp_path)
    program, files = tmp_path / "load_and_predict.fastai.py", tmp_path / "files"
    files.mkdir()
    program.write_text("print(['dog', 'cat'])")
    assert compare.run("load_and_predict", "fastai", files, tmp_path / "right") > 0
    program.write_text("print(['cat', 'cat'])")
    with pytest.raises(RuntimeError, match=r"load_and_predict with fastai: accuracy is 0\.0"):
        compare.run("load_and_predict", "fastai", files, tmp_path / "wrong")
    program.write_text("1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        compare.run("load_and_predict", "fastai", files, tmp_path / "failed")


@pytest.mark.parametrize(
    ("task", "printed", "accuracy"),
    [
        ("my_module", "0  0.7  0.6  0.5  00:01\n1  0.4  0.3  0.933333  00:01\n", 0.933333),
        ("my_module", "{'eval_loss': '0.4', 'eval_accuracy': '0.5'}\n{'eval_accuracy': '0.9', 'epoch': '2'}\n", 0.9),
        ("my_module", "{'eval_accuracy': 1}\n", 1.0),
        ("load_and_predict", "Predicted(labels=['dog', 'cat'], values=None, class_names=['cat', 'dog'])", 1.0),
        ("load_and_predict", "Predicted(labels=['dog', 'dog'], values=None, class_names=['cat', 'dog'])", 0.0),
        ("load_and_predict", "[[{'label': 'dog'}, {'label': 'cat'}], [{'label': 'cat'}, {'label': 'dog'}]]", 1.0),
        ("load_and_predict", "[('dog', tensor(1)), ('cat', tensor(0))]", 1.0),
        ("three_strategies", "scratch 0.5\nfull 0.8\ngradual  0.9667  0.9\n", 0.9667),
    ],
)
def test_accuracy_is_found_in_what_each_library_prints(
    compare: ModuleType, tmp_path: Path, task: str, printed: str, accuracy: float
) -> None:
    assert compare.accuracy_of(task, tmp_path, printed) == accuracy


@pytest.mark.parametrize("printed", ["", "done\n", "scratch 0.5\nfull 0.8\n"])
def test_no_accuracy_is_none(compare: ModuleType, tmp_path: Path, printed: str) -> None:
    assert not compare.accuracy_of("three_strategies", tmp_path, printed) >= 0
    assert not compare.accuracy_of("my_module", tmp_path, printed) >= 0


@pytest.mark.slow
def test_task_is_measured_with_what_is_installed(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MODULES", {"transformers": "transformers", "fastai": "no_such_module"})
    [row] = compare.measure("my_data", importlib.import_module("benchmarks.measure").Settings(1, quick=True))
    assert row["with"] == "transformers"
    assert float(row["CPU s, best"]) > 0
