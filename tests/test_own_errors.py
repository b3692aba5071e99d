"""Errors of the user's own classes: one line with their place where a class is built, a traceback where it works."""

import importlib
import sys
from pathlib import Path

import pytest
from test_cli import error_line

from lightning_transfer.cli.entry import main

OWN = """
import lightning as L, torch
from torch import nn
from lightning_transfer import SeedCNN
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError

class Small(L.LightningDataModule):
    num_classes = 3
    def train_dataloader(self):
        batch = ImageBatch(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long), torch.zeros(2))
        return torch.utils.data.DataLoader([batch], batch_size=None)

class Key(SeedCNN):
    def __init__(self, num_classes: int):
        {}["width"]  # Key

class Attribute(SeedCNN):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.nothing  # Attribute

class Lines(SeedCNN):
    def __init__(self, num_classes: int):
        raise RuntimeError("the first\\n  the second\\n\\nthe third")  # Lines

class Chained(SeedCNN):
    def __init__(self, num_classes: int):
        try:
            raise UserError("of another kind")
        except UserError as error:
            raise TypeError("not of this kind") from error  # Chained

class Data(L.LightningDataModule):
    def __init__(self):
        raise OSError("no such tape")  # Data

class Optimizer(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        raise ValueError("tuned")  # Optimizer

class Scheduler(torch.optim.lr_scheduler.ConstantLR):
    def __init__(self, optimizer):
        torch.zeros(2).view(3)  # Scheduler

class Callback(L.Callback):
    def __init__(self):
        assert not self, "switched off"  # Callback

class Picky(L.Callback):
    def __init__(self):
        raise UserError("picky is on: expected off")

class Module(L.LightningModule):
    def __init__(self):
        import nowhere_to_be_found  # Module

class Part(nn.Module):
    def __init__(self):
        raise ValueError("in two")  # Part

class Whole(SeedCNN):
    def __init__(self, num_classes: int, parts: int | list[nn.Module] | None = None):
        super().__init__(num_classes)

class Forward(SeedCNN):
    def forward(self, images):
        import nowhere_to_be_found

class Loader(Small):
    def train_dataloader(self):
        try:
            raise UserError("a mistake that is handled")
        except UserError:
            open(".").read()
"""
FILES = {
    "own.py": OWN,
    "misspelt.py": "\ndef network(:\n",
    "unpacked.py": "import misspelt\n",
    "unlucky.py": "import torch\n\ntorch.zeros(2).view(3)\n",
    "incomplete.py": "import nowhere_to_be_found\n",
}


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the user, in the working folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def fit(**options: str) -> list[str]:
    """A short fit of parts of which one is named, or all."""
    given = {"data": "own.Small", "model": "Classifier", **options}
    if given["model"] == "Classifier":
        given = {**given, "model.network": given.get("model.network", "SeedCNN")}
    quiet = ["--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false"]
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return ["fit", *words, "--trainer.accelerator", "cpu", "--trainer.max_steps", "1", *quiet]


def marked(name: str) -> str:
    """The place of the line that is marked by that name."""
    [line] = [number for number, line in enumerate(OWN.splitlines(), 1) if line.endswith(f"  # {name}")]
    return f"own.py:{line}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model.network": "own.Key"}, "{Key}: KeyError: 'width'"),
        (
            {"model.network": "own.Attribute"},
            "{Attribute}: AttributeError: 'Attribute' object has no attribute 'nothing'",
        ),
        ({"model.network": "own.Lines"}, "{Lines}: RuntimeError: the first the second the third"),
        ({"model.network": "own.Chained"}, "{Chained}: TypeError: not of this kind"),
        ({"data": "own.Data"}, "{Data}: OSError: no such tape"),
        ({"model.optimizer": "own.Optimizer"}, "model.optimizer: tuned ({Optimizer})"),
        (
            {"model.lr_scheduler": "own.Scheduler"},
            "{Scheduler}: RuntimeError: shape '[3]' is invalid for input of size 2",
        ),
        ({"trainer.callbacks+": "own.Callback"}, "{Callback}: AssertionError: switched off"),
        # The first type of a union that the parser tries is a list: that complaint is not the user's error.
        ({"trainer.callbacks": "own.Callback"}, "{Callback}: AssertionError: switched off"),
        ({"trainer.callbacks": "own.Picky"}, "picky is on: expected off"),
        ({"model": "own.Module"}, "{Module}: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            {"model.network": "own.Whole", "model.network.parts": '[{"class_path": "own.Part"}]'},
            "{Part}: ValueError: in two",
        ),
        ({"model.network": "misspelt.Network"}, "misspelt.py:2: SyntaxError: invalid syntax"),
        ({"trainer.callbacks+": "unpacked.Own"}, "misspelt.py:2: SyntaxError: invalid syntax"),
        ({"data": "unlucky.Data"}, "unlucky.py:3: RuntimeError: shape '[3]' is invalid for input of size 2"),
        ({"model": "incomplete.Own"}, "incomplete.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        # What is not there at all has no place in the user's code.
        (
            {"model.network": "own.Nothing"},
            "model.network: 'own.Nothing' is not a class that can be imported: module 'own' has no attribute 'Nothing'",
        ),
        (
            {"trainer.callbacks+": "lost.Own"},
            "trainer.callbacks: 'lost.Own' is not a class that can be imported: No module named 'lost'",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join([*value, *value.values()]),
)
def test_error_of_a_class_of_ones_own_is_one_line_with_its_place(
    options: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in dir(importlib.import_module("own")) if f"# {name}\n" in OWN]
    assert error_line(capsys, *fit(**options)) == expected.format(**{name: marked(name) for name in names})


@pytest.mark.parametrize(
    ("options", "error"),
    [({"model.network": "own.Forward"}, ModuleNotFoundError), ({"data": "own.Loader"}, IsADirectoryError)],
    ids=["forward", "loader"],
)
def test_error_of_a_method_of_ones_own_has_its_traceback(options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        main(fit(**options))
    assert raised.traceback[-1].path == Path("own.py").resolve()
