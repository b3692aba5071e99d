"""Settings that are given one by one, by dotted names: none is lost, and each is put where the settings have it."""

from pathlib import Path

import pytest
import yaml

from lightning_transfer.cli import transfer_runs
from lightning_transfer.cli.dotted_settings import parse_with_settings
from lightning_transfer.cli.study_runs import read_study
from lightning_transfer.errors import UserError
from lightning_transfer.study.grid import expand

THREE = ["--overrides.data.path", "pictures", "--overrides.data.test_fraction=0.2", "--overrides.data.batch_size", "16"]


def test_settings_with_the_same_first_name_are_all_kept() -> None:
    words = ["--source", "a", "--target", "quickstart", *THREE, "--overrides.trainer.max_epochs", "3", "--seed", "1"]
    values = parse_with_settings(transfer_runs.parser(), words, "overrides")
    assert values["overrides"] == {
        "data.path": "pictures",
        "data.test_fraction": "0.2",
        "data.batch_size": "16",
        "trainer.max_epochs": "3",
    }
    assert values["seed"] == 1


def test_setting_of_a_study_replaces_that_of_its_file_and_leaves_the_others() -> None:
    settings = {"data": {"path": "here", "test_fraction": 0.5}, "trainer.max_epochs": 2, "model.lr_decay": 2}
    study = {"name": "toy", "configs": ["quickstart"], "strategies": {"full": "full"}, "baseline": "full"}
    Path("study.yaml").write_text(yaml.safe_dump({**study, "overrides": settings}))
    found, _ = read_study([*THREE, "--config", "study.yaml", "--overrides.trainer.max_epochs=1"])
    assert found.overrides == {
        "data": {"path": "pictures", "test_fraction": "0.2", "batch_size": "16"},
        "trainer.max_epochs": "1",
        "model.lr_decay": 2,
    }


def test_grid_on_the_command_line_is_one_and_a_value_that_only_looks_like_it_is_none() -> None:
    study = {"name": "toy", "configs": ["quickstart"], "strategies": {"full": "full"}, "baseline": "full"}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    grids = ["--overrides.model.lr_decay", "{grid: [1.5, 2]}", "--overrides.data.views={hue: {grid: [0, 0.1]}}"]
    others = ["--overrides.model.network", "{class_path: Grid}", "--overrides.monitor", "{grid: [1"]
    found, _ = read_study(["--config", "study.yaml", *grids, *others])
    assert found.overrides == {
        "model.lr_decay": {"grid": [1.5, 2]},
        "data.views": {"hue": {"grid": [0, 0.1]}},
        "model.network": "{class_path: Grid}",
        "monitor": "{grid: [1",
    }
    assert len(expand(found.overrides)) == 4
    with pytest.raises(UserError, match=r"^the grid of model.lr_decay is 3: expected a list of values$"):
        read_study(["--config", "study.yaml", "--overrides.model.lr_decay", "{grid: 3}"])


def test_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--overrides.data.path has no value: give one behind it$"):
        parse_with_settings(transfer_runs.parser(), ["--overrides.data.path"], "overrides")
