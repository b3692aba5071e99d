"""Numbers of the model that follow from the data, and data modules that have none."""

from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from test_cli import error_line
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_transfer import DemoImages
from lightning_transfer.cli.entry import main
from lightning_transfer.data.batches import ImageBatch

SMALL = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false"]
DEMO = ["fit", "--data", "DemoImages", "--data.examples_per_class", "2", *SMALL]
OWN = ["fit", "--data", "test_linked_numbers.OwnImages", *SMALL]
SEVEN = ["--model.num_classes", "7", "--model.network.num_classes", "7"]


class OwnImages(L.LightningDataModule):
    """Someone else's data, which does not say how many classes it has."""

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        batch = ImageBatch(torch.randn(4, 3, 32, 32), torch.arange(4) + 3, torch.arange(4))
        return DataLoader([batch], batch_size=None)

    val_dataloader = train_dataloader


class Pairs(OwnImages):
    """Ordinary batches: inputs and labels."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        [batch] = super().train_dataloader()
        return DataLoader([(batch.images, batch.labels)], batch_size=None)

    val_dataloader = train_dataloader


class Triples(OwnImages):
    """Batches with a part that may be anything."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader([(torch.randn(4, 3, 32, 32), torch.arange(4), torch.ones(4))], batch_size=None)


class TenClasses(nn.Sequential):
    """A network that has ten classes unless told otherwise."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


def saved(run: Path) -> dict:
    """The arguments of the model as a run has saved them."""
    arguments: dict = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    return arguments


def test_data_without_a_number_of_classes_take_the_one_given_and_keep_it(own_folder: Path) -> None:
    main([*OWN, "--model.network", "SeedCNN", *SEVEN])
    first, second = own_folder / "logs/default/version_0", own_folder / "logs/default/version_1"
    main(["fit", "--config", str(first / "config.yaml")])
    for run in (first, second):
        assert saved(run)["num_classes"] == saved(run)["network"]["init_args"]["num_classes"] == 7
        state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        assert state["network.head.bias"].shape == (7,)


def test_ordinary_pairs_of_inputs_and_labels_train_as_named_tuples_do() -> None:
    weights = []
    for data in ("OwnImages", "Pairs"):
        arguments = ["--data", f"test_linked_numbers.{data}", "--version", data, "--dashboards", "null"]
        main(["fit", *arguments, *SMALL, "--model.network", "SeedCNN", *SEVEN])
        weights.append(torch.load(f"logs/default/{data}/checkpoints/last.ckpt", weights_only=True)["state_dict"])
    named, paired = weights
    assert all(torch.equal(named[name], paired[name]) for name in named)


def test_number_that_follows_from_the_data_is_not_saved_and_wins_over_a_default(own_folder: Path) -> None:
    main([*DEMO, "--data.task", "target", "--model.network", "test_linked_numbers.TenClasses"])
    run = own_folder / "logs/default/version_0"
    assert "num_classes" not in saved(run) | saved(run)["network"]["init_args"]
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert state["network.1.bias"].shape == (6,)
    assert DemoImages("target").num_classes == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*OWN, "--model.network", "SeedCNN"],
            "the data has no num_classes: choose other data, or give --model.num_classes",
        ),
        (
            [*DEMO, "--model.network", "SeedCNN", "--model.network.num_classes", "7"],
            "model.network.num_classes is 7, and the data has 10: leave it out, it follows from the data",
        ),
        (
            ["fit", "--data", "test_linked_numbers.Triples", *SMALL, "--model.network", "SeedCNN", *SEVEN],
            "the data gives batches of list: expected (inputs, labels), a dictionary with labels, or named tuples with"
            " inputs and labels, as lightning_transfer.data.batches.ImageBatch",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_line(capsys, *arguments) == message
