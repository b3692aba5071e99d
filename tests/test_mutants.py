"""The table of mutants, without testing them: that each can still be made, and what counts as killed."""

import runpy
import time
from typing import Any

from conftest import REPOSITORY

SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "scripts" / "mutants"))


def test_every_mutant_can_be_made_and_names_tests_that_there_are() -> None:
    mutants = SCRIPT["read_table"]()
    assert len(mutants) == SCRIPT["TABLE"].read_text().count("\n    old: ")  # no name stands twice below one file
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert [words for mutant in mutants if (words := SCRIPT["mistake_in"](mutant))] == []


def test_mutant_that_cannot_be_made_is_named_with_the_reason() -> None:
    def mistake(file: str = "errors.py", old: str = "import difflib", new: str = "pass", test: str = "") -> str:
        tests = [test or "test_mutants.py::test_every_mutant_can_be_made_and_names_tests_that_there_are"]
        return SCRIPT["mistake_in"](SCRIPT["Mutant"]("a", file, old, new, tests))

    assert mistake() == ""
    assert "'known' occurs 5 times in errors.py, expected once" in mistake(old="known")
    assert "a: no file no.py" in mistake(file="no.py")
    assert "a: invalid syntax" in mistake(new="import")
    assert "a: there is no test test_mutants.py::test_nothing" in mistake(test="test_mutants.py::test_nothing")
    assert "a: there is no test test_nothing.py" in mistake(test="test_nothing.py")


def test_failing_and_hanging_tests_kill_and_an_error_does_not() -> None:
    jobs = [("passes", lambda: 0), ("fails", lambda: 1), ("breaks", lambda: 1 // 0), ("hangs", lambda: time.sleep(99))]
    found = list(SCRIPT["in_processes"](jobs, workers=2, most_seconds=1))
    killed, lived = SCRIPT["KILLED"], SCRIPT["LIVED"]
    statuses = {name: status for name, status, _, _ in found}
    assert statuses == {"passes": lived, "fails": killed, "breaks": SCRIPT["FAILED"], "hangs": killed}
