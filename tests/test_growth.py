"""The benchmark of growth fits exponents, and draws them."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite of the benchmark."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("benchmarks.growth")


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 2.0])
def test_exponent_is_that_of_the_growth_beyond_a_fixed_cost(growth: ModuleType, power: float, fixed: float) -> None:
    points = [(size, fixed + 0.01 * size**power) for size in (1, 10, 100, 1000)]
    assert growth.exponent(points) == pytest.approx(power, abs=0.02)


def test_cost_that_hardly_grows_has_the_exponent_zero(growth: ModuleType) -> None:
    assert growth.exponent([(1, 2.0), (10, 1.97), (100, 2.1)]) == 0


def test_plot_has_the_points_and_exponents_of_each_quantity(growth: ModuleType, tmp_path: Path) -> None:
    rows = [{"classes": size, growth.SECONDS: 3 + 0.01 * size, growth.MEMORY: 500} for size in (3, 10, 100, 1000)]
    plot = runpy.run_path(str(SCRIPTS / "benchmarks" / "growth_plot.py"))
    plot["draw"](json.loads(json.dumps({"growth.classes": {"rows": rows}})), tmp_path / "growth.svg")
    drawn = (tmp_path / "growth.svg").read_text()
    assert "exponent 1.00" in drawn
    assert "exponent 0.00" in drawn
    assert "1,000" in drawn


@pytest.mark.slow
def test_command_is_measured_in_a_process_of_its_own_without_the_memory_of_this_one(
    growth: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), str(REPOSITORY), *sys.path])
    settings = importlib.import_module("benchmarks.measure").Settings(1, quick=True)
    held = b"x" * 2**30
    [row] = growth.measure("groups", settings)
    del held
    assert row["layer groups"] == 2
    assert row[growth.SECONDS] > 0
    assert 100 < row[growth.MEMORY] < 1500


def test_plot_of_private_training_has_every_row_of_the_published_studies(tmp_path: Path) -> None:
    plot = runpy.run_path(str(SCRIPTS / "benchmarks" / "private_plot.py"))
    plot["draw"](tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for name in ("linear_probe", "norm_and_bias", "gradual", "full", "head on MiniLM", "head on our language model"):
        assert f">{name}<" in text
