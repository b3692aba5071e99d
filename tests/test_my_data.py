"""A data module of somebody's own, with loaders of torch: learned from, predicted, averaged and resumed exactly."""

import json
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from interruptions import Interruption, assert_equal_runs
from test_cli import error_line
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from lightning_transfer import Classifier
from lightning_transfer.cli.entry import main
from lightning_transfer.data.batches import inputs_of, parts
from lightning_transfer.data.ordinary_loader import OrdinaryLoader, is_ordinary
from lightning_transfer.errors import UserError

NETWORK = ["--model.network", "test_my_data.Network", "--model.optimizer", "torch.optim.SGD"]
OWN = [*NETWORK, "--model.optimizer.lr", "0.1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar"]
OWN += ["false", "--trainer.enable_model_summary", "false", "--dashboards", "null"]


class Noisy(Dataset[Any]):
    """Numbers of three classes, to which each look adds a little by each of the three generators."""

    def __init__(self, rows: int, as_dictionary: bool = False) -> None:
        self.rows, self.as_dictionary = rows, as_dictionary

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Any:
        numbers = torch.tensor([row % 3, row / self.rows, random.random(), np.random.rand()], dtype=torch.float32)
        numbers += 0.1 * torch.rand(4)
        label = row % 3
        return {"width": numbers[:1], "rest": numbers[1:], "label": label} if self.as_dictionary else (numbers, label)


class Network(nn.Module):
    """Takes the numbers whole, or in two parts by their names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)

    def forward(self, rest: Tensor, width: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(rest if width is None else torch.cat([width, rest], 1))
        return logits


class Data(L.LightningDataModule):
    """What a tutorial shows: no rows, no names, nothing to predict, and a shuffled training."""

    num_classes = 3

    def __init__(self, as_dictionary: bool = False, num_workers: int = 0) -> None:
        super().__init__()
        self.as_dictionary, self.num_workers = as_dictionary, num_workers

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train, self.validation = Noisy(31, self.as_dictionary), Noisy(12, self.as_dictionary)
        if stage == "test":
            self.test = TensorDataset(torch.rand(10, 4), torch.arange(10) % 3)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=4, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, batch_size=5)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, batch_size=4)


class Unlabelled(Data):
    """Says what to predict, without labels and not in the order of the rows."""

    class_names = ("a", "b", "c")

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(40.0).view(10, 4)), batch_size=4, shuffle=True)


def fit(version: str, *arguments: str, data: str = "Data") -> Path:
    data = f"test_my_data.{data}"
    main(["fit", "--data", data, *OWN, "--version", version, "--trainer.max_epochs", "2", *arguments])
    return Path("logs/default", version)


def on_run(command: str, run: Path, *arguments: str) -> list[dict[str, Any]]:
    files = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    main([command, *files, *arguments])
    return [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]


def logits_of(run: Path, numbers: Tensor) -> Tensor:
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return numbers @ state["network.head.weight"].T + state["network.head.bias"]


class Empty(Data):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(0), batch_size=4)


def test_data_without_a_batch_to_train_on_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "fit", "--data", "test_my_data.Empty", *OWN, "--trainer.max_epochs", "1")
    assert line == "the data gives no training batches, and nothing was trained: expected one or more"
    fit("none", "--trainer.limit_train_batches", "0")  # as it is asked for


def test_two_runs_are_predicted_and_averaged() -> None:
    runs = [fit(version, "--seed_everything", version) for version in "01"]
    lines = on_run("predict", runs[0])  # the test split, as nothing else is said
    assert [line["name"] for line in lines] == [*range(10)]
    assert {*lines[0]["probabilities"]} == {"0", "1", "2"}
    main(["ensemble", *map(str, runs), "--predictions", "all.jsonl", "--output", "all.json"])
    assert len(Path("all.jsonl").read_text().splitlines()) == 10
    assert {"loss", "accuracy"} <= json.loads(Path("all.json").read_text())["metrics"]["mean of 2"].keys()


def test_shuffled_rows_without_labels_are_predicted_in_their_order_by_name() -> None:
    run = fit("named", data="Unlabelled")
    lines = on_run("predict", run)
    expected = logits_of(run, torch.arange(40.0).view(10, 4)).softmax(1)
    found = torch.tensor([[*line["probabilities"].values()] for line in lines])
    torch.testing.assert_close(found, expected)
    assert {*lines[0]["probabilities"]} == {"a", "b", "c"}


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_run_goes_on_within_an_epoch_as_if_it_had_not_stopped(num_workers: str) -> None:
    own = ["--data.as_dictionary", "true", "--data.num_workers", num_workers]
    own += ["--model.lr_schedule", "cosine"]  # asks for the number of steps, before which loaders would be restored
    expected = fit("whole", *own)
    stop = f"{Interruption.__module__}.Interruption"
    with pytest.raises(SystemExit):
        fit("stopped", *own, "--trainer.callbacks+", stop, "--trainer.callbacks.steps", "[11]")
    # Another seed on the command line changes nothing: the run goes on with its own.
    assert_equal_runs(fit("stopped", *own, "--ckpt_path", "last", "--seed_everything", "5"), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_a_function_of_seed_epoch_and_place(shuffle: bool, num_workers: int) -> None:
    def loader(seed: int = 3) -> OrdinaryLoader:
        torch.manual_seed(torch.seed() % 1000)  # the generators of the process do not matter
        return OrdinaryLoader(DataLoader(Noisy(11), batch_size=4, shuffle=shuffle, num_workers=num_workers), seed)

    first, plain = loader(), OrdinaryLoader(DataLoader(Noisy(11), batch_size=4, shuffle=shuffle), 3)
    first.set_epoch(1)
    begun = iter(first)
    next(begun)
    place = first.state_dict()
    assert place == {"epoch": 1, "position": 1}
    second = loader()
    second.load_state_dict(place)
    second.set_epoch(1)
    plain.set_epoch(1)
    rest = [[*begun], [*second], [*plain][1:]]
    assert [len(batches) for batches in rest] == [2, 2, 2]
    for batches in zip(*rest, strict=True):
        for numbers, labels in batches[1:]:
            assert torch.equal(numbers, batches[0][0])
            assert torch.equal(labels, batches[0][1])
    second.set_epoch(2)
    assert len([*second]) == 3
    epochs = [np.concatenate(second.batches(epoch)).tolist() for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]) == shuffle
    seen = [torch.cat([labels for _, labels in loader(seed)]).tolist() for seed in (3, 4)]
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(row % 3 for row in range(11))
    assert (seen[0] != seen[1]) == shuffle


def test_last_batch_is_dropped_where_the_loader_says_so() -> None:
    for drop_last, count in ((True, 2), (False, 3)):
        loader = OrdinaryLoader(DataLoader(Noisy(11), batch_size=4, drop_last=drop_last), 0)
        assert len(loader) == len([*loader]) == count
        assert len(loader.names(count)) == (8 if drop_last else 11)


class Stream(IterableDataset[Any]):
    """No rows."""

    def __iter__(self) -> Any:
        return iter([])


def test_loaders_that_sample_otherwise_stay_as_they_are() -> None:
    data = Noisy(6)
    assert is_ordinary(DataLoader(data, batch_size=2, shuffle=True))
    for loader in (
        DataLoader(Stream()),
        DataLoader(data, batch_size=None),
        DataLoader(data, sampler=WeightedRandomSampler([1.0] * 6, 6)),
        DataLoader(data, sampler=torch.utils.data.RandomSampler(data, num_samples=3)),
        DataLoader(data, sampler=torch.utils.data.RandomSampler(data, replacement=True)),
        DataLoader(data, batch_sampler=[[0, 1], [2]]),
        [1, 2],
    ):
        assert not is_ordinary(loader)


def test_generator_of_a_loader_decides_its_order() -> None:
    def rows(generator_seed: int, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(generator_seed)
        loader = OrdinaryLoader(DataLoader(Noisy(8), batch_size=8, shuffle=True, generator=generator), seed)
        found: list[int] = loader.batches(0)[0].tolist()
        return found

    assert rows(1, 0) == rows(1, 5) != rows(2, 0)


X, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)


class Named(nn.Module):
    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> None: ...


class OnlyNamed(nn.Module):
    def forward(self, first: Tensor, *, second: Tensor) -> None: ...


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        ((X, Y), (X,)),
        ([X, Y], (X,)),
        (((X, X + 1), Y), (X, X + 1)),
        ({"x": X, "y": Y}, (X,)),
        ({"labels": Y, "pixel_values": X}, (X,)),
        ({"second": X + 1, "label": Y, "first": X}, (X, X + 1, None)),
        ({"third": X + 1, "target": Y, "first": X}, (X, None, X + 1)),
    ],
)
def test_inputs_and_labels_are_found(batch: Any, inputs: tuple[Tensor | None, ...]) -> None:
    found, labels = parts(batch, Named())
    assert labels is Y
    assert len(found) == len(inputs)
    for given, expected in zip(found, inputs, strict=True):
        assert (given is None and expected is None) or torch.equal(given, expected)  # type: ignore[arg-type]


def test_inputs_without_labels_are_found() -> None:
    for batch in (X, [X], (X,), {"x": X}, (X, Y)):
        [found] = inputs_of(batch)
        assert found is X


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"first": X}, "a dictionary with first: expected inputs, and labels as one of labels, label"),
        ({"label": Y}, "a dictionary with label: expected inputs"),
        ({"first": X, "label": Y, "y": Y}, "a dictionary with first, label, y"),
        ({"first": X, "fourth": X, "label": Y}, r"with first, fourth: expected what forward takes, \(first: .*fourth"),
        ((X, Y, Y), r"batches of tuple: expected \(inputs, labels\), a dictionary with labels"),
        ("text", "batches of str"),
    ],
)
def test_other_batches_are_refused_in_one_line(batch: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parts(batch, Named())
    with pytest.raises(UserError, match="forward takes second by name alone"):
        parts({"first": X, "second": X, "label": Y}, OnlyNamed())


def test_error_in_somebodys_code_ends_with_the_line_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Network, rest: Tensor) -> Tensor:
        return self.head(rest[:, :2])  # type: ignore[no-any-return]  # the mistake

    monkeypatch.setattr(Network, "forward", forward)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as error:
        fit("wrong")
    [note] = error.value.__notes__
    place, _, line = note.rpartition(":")
    assert place.startswith("the line in your code: ")
    assert "the mistake" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_classifier_learns_from_dictionaries_without_the_command_line() -> None:
    data, module = Data(as_dictionary=True), Classifier(Network(3), 3, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["val/loss"] < 2
