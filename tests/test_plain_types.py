"""Checkpoints hold plain types, which any command reads; anything else is refused by its name."""

import json
from collections import Counter, OrderedDict, namedtuple
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import fit_arguments
from test_cli import error_line

from lightning_transfer import Classifier, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.run.plain_types import plain

Pair = namedtuple("Pair", ["first", "second"])


class Size(Enum):
    SMALL = "small"


class Level(IntEnum):
    LOW = 1


class Foreign:
    """No command knows it."""


class OwnModule(Classifier):
    """A module of a user's own, whose hyperparameters are more than numbers.

    Args:
        folder: A path.
        size: A member of an enumeration.
        foreign: Whether to keep what cannot be read.
    """

    def __init__(self, folder: Path = Path("a/b"), size: Size = Size.SMALL, foreign: bool = False) -> None:
        super().__init__(SeedCNN(3), num_classes=3)
        self.save_hyperparameters()
        self.hparams["rate"] = np.float64(0.5)
        if foreign:
            self.hparams["thing"] = Foreign()


class OwnState(L.Callback):
    """A callback of a user's own, whose state is more than numbers."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": np.float32(0.25), "by_size": {Size.SMALL: [Path("c"), np.arange(3)]}}


def arguments(folder: Path, *more: str) -> list[str]:
    network = ["--model.network", "SeedCNN"]
    given = fit_arguments(folder, "--version", "run", "--dashboards", "null", *more)
    place = given.index("--model.network")
    assert given[place : place + 2] == network
    return [*given[:place], "--model", "test_plain_types.OwnModule", *given[place + 2 :]]


def test_hyperparameters_and_state_of_paths_enumerations_and_numpy_are_saved_as_plain_types(image_folder: Path) -> None:
    callback = ["--trainer.callbacks+", "test_plain_types.OwnState", "--test_after_fit", "true"]
    main(arguments(image_folder, *callback))
    run = Path("logs/default/run")
    assert json.loads((run / "results.json").read_text())["test"]
    for name in ("best", "last"):
        saved = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        hyperparameters = saved["hyper_parameters"]
        assert (hyperparameters["folder"], hyperparameters["size"], hyperparameters["rate"]) == ("a/b", "small", 0.5)
        [state] = [state for key, state in saved["callbacks"].items() if "OwnState" in key]
        assert state["best"] == 0.25
        torch.testing.assert_close(state["by_size"]["small"][1], torch.arange(3))


def test_what_no_command_would_read_is_refused_before_the_training_with_its_name(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, *arguments(image_folder, "--model.foreign", "true"))
    assert line == (
        "hyper_parameters.thing is Foreign, which no command would read from the checkpoint: keep plain types and"
        " tensors there, or leave it out, for example by save_hyperparameters(ignore=['thing'])"
    )
    assert not list(Path("logs/default/run").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Level.LOW, 1),
        ({"a": {Path("b"): (Size.SMALL,)}}, {"a": {"b": ("small",)}}),
        (L.fabric.utilities.data.AttributeDict(a=1), {"a": 1}),
        ([np.int64(2), {Level.LOW}], [2, {1}]),
    ],
)
def test_value_of_a_rich_type_is_saved_as_a_plain_one(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_what_is_plain_already_stays_the_very_same_object() -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    counts = Counter("aab")
    for value in (module.state_dict(), optimizer.state_dict(), counts, torch.device("cpu"), torch.float16, b"a"):
        assert plain(value) is value


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"a": [1, Foreign()]}, r"a\[1\] is Foreign"),
        (OrderedDict(b=OrderedDict(c=torch.nn.Linear(1, 1))), "b.c is Linear"),
        ({"d": np.array(["text"])}, "d is ndarray"),
        ({"e": np.datetime64("2026-01-01", "D")}, "e is date"),
        ({"f": lambda: None}, "f is function"),
        ({"g": Pair(1, 2)}, "g is Pair"),
        ({"h": Foreign}, "h is type"),
    ],
)
def test_object_that_torch_reads_by_running_code_is_refused(value: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}, which no command would read"):
        plain(value)
