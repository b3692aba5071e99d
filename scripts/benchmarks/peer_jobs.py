"""Says which trainings all peers do, and writes the files that each of them starts from."""

import functools
import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision import models

from lightning_transfer import CIFAR10, TextDataModule
from lightning_transfer.files import model_folder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CONVOLUTIONAL_NETWORK = """from collections import OrderedDict

from torch import nn


class Network(nn.Sequential):
    layer_groups = ("convolutions", "hidden", "head")

    def __init__(self, num_classes):
        convolutions = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        hidden = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        parts = {"convolutions": nn.Sequential(*convolutions), "hidden": nn.Sequential(*hidden)}
        super().__init__(OrderedDict(parts | {"head": nn.Linear(84, num_classes)}))
"""
# This package has the same network, LSTMClassifier, which a test compares with it.
RECURRENT_NETWORK = """from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Network(nn.Module):
    def __init__(self, vocabulary_size, num_classes):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 100)
        self.lstm = nn.LSTM(100, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, num_classes)

    def forward(self, token_ids, lengths):
        packed = pack_padded_sequence(self.embedding(token_ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=float("-inf"))
        return self.head(states.amax(1))
"""


@dataclass(frozen=True)
class Job:
    """A training that all peers do.

    Args:
        what: What it is.
        count: Number of training examples.
        quick: The same with ``--quick``.
        gpu: The same with ``--accelerator gpu``, where an epoch of ``count`` would end in a second.
        unit: What is counted by the second: the training examples of an epoch, or the runs of a study.
        bar: Hold-out accuracy to which time is measured; None for a study.
        write_files: A function that writes the files for so many training examples into a folder.
    """

    what: str
    count: int
    quick: int
    gpu: int
    unit: str
    bar: float | None
    write_files: Callable[[Path, int], None]

    @property
    def is_study(self) -> bool:
        """Whether it is many trainings, each of which ends with a test."""
        return self.bar is None


def write_images(folder: Path, count: int, splits: tuple[str, ...] = ("train", "validation")) -> None:
    """Writes CIFAR-10's first images as class folders of PNGs, a fifth as many for each other split, and networks."""
    data = CIFAR10()
    names, rows = data.read_class_names(), data.read_split("train")
    begin = 0
    for split in splits:
        end = begin + (count if split == "train" else count // 5)
        for row in range(begin, end):
            file = folder / "images" / split / names[int(rows.labels[row])] / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rows.inputs[row].permute(1, 2, 0).numpy()).save(file)
        begin = end
    (folder / "my_network.py").write_text(CONVOLUTIONAL_NETWORK)


def write_study(folder: Path, count: int) -> None:
    """Writes images of three splits, and random weights of the network to start from."""
    write_images(folder, count, ("train", "validation", "test"))
    torch.manual_seed(0)
    network = runpy.run_path(str(folder / "my_network.py"))["Network"]
    torch.save(network(num_classes=10).state_dict(), folder / "weights.pt")


def write_resnet(folder: Path, count: int) -> None:
    """Writes images, and random weights in the place of ImageNet's: time does not depend on them."""
    write_images(folder, count)
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), folder / "resnet18.pth")


def write_texts(folder: Path, count: int, *, name: str, column: str, splits: tuple[str, str], place: str) -> None:
    """Writes texts of a data set on the Hub as JSON lines, a fifth as many held out, MiniLM and a network."""
    data = TextDataModule(name, text_column=column)
    (folder / place).mkdir(parents=True)
    for split, source, most in zip(("train", "validation"), splits, (count, count // 5), strict=True):
        rows = data.open_split(source, text_column=column, label_column="label")
        rows = rows.shuffle(seed=0).select(range(min(len(rows), most)))
        lines = [json.dumps({column: row[column], "label": int(row["label"])}) for row in rows]
        (folder / place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "minilm").symlink_to(model_folder(MODEL, ["*.json", "*.txt", "*.safetensors"], "the benchmark's model"))
    (folder / "my_network.py").write_text(RECURRENT_NETWORK)


_write_reviews = functools.partial(
    write_texts, name="stanfordnlp/imdb", column="text", splits=("train", "test"), place="reviews"
)
_write_sentences = functools.partial(
    write_texts, name="stanfordnlp/sst2", column="sentence", splits=("train", "validation"), place="sentences"
)
JOBS = {
    "cnn": Job("a small network on CIFAR-10, batches of 128", 10_000, 1000, 40_000, "images", 0.45, write_images),
    "resnet18": Job("ResNet-18 on CIFAR-10, gradually, batches of 64", 4000, 400, 20_000, "images", 0.35, write_resnet),
    "lstm": Job(
        "an LSTM on IMDB, batches of 32 cut at 256 tokens", 2000, 200, 20_000, "documents", 0.65, _write_reviews
    ),
    "sst2": Job(
        "MiniLM on SST-2, batches of 32 cut at 96 tokens", 1280, 128, 12_800, "documents", 0.8, _write_sentences
    ),
    "probe": Job("the head of a frozen MiniLM on SST-2", 1920, 128, 19_200, "documents", 0.75, _write_sentences),
    "study": Job("3 strategies, 3 sizes and 3 seeds on CIFAR-10", 1000, 1000, 1000, "runs", None, write_study),
}
