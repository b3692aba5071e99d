"""Measures the LSTM on reviews: tokenising, batches by length, both directions, and the classic recipe.

It needs the reviews of IMDB, from a mirror or the Hub; with --quick it takes the embedded ones.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import classic_lstm
from benchmarks.measure import PRECISIONS, Part, Row, Settings, compare, cpu_seconds
from lightning_transfer import IMDB, DemoTexts, LSTMClassifier, TextDataModule
from lightning_transfer.cli.entry import main
from lightning_transfer.data.loader import ordered_batches
from lightning_transfer.data.tokenizer import tokenize, train_tokenizer
from lightning_transfer.modules.classifier import Batch

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "imdb_seed.yaml"


def reviews(settings: Settings, max_tokens: int = 100_000) -> TextDataModule:
    """Loads the reviews, divided into a training set and a hold-out."""
    data = DemoTexts(max_tokens=max_tokens, train_fraction=0.05) if settings.quick else IMDB(max_tokens=max_tokens)
    data.setup("fit")
    return data


def training_step(network: nn.Module, batches: list[Batch], precision: str = "32") -> Callable[[], None]:
    """Makes a pass over the batches, with forward, backward and an Adam step for each."""
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = network(*batch.inputs)
            nn.functional.cross_entropy(logits.float(), batch.labels).backward()
            optimizer.step()

    return step


def spread(data: TextDataModule, count: int) -> list[Batch]:
    """Takes batches of one training epoch, evenly spaced from the shortest reviews to the longest."""
    split = data._split("train")
    epoch = data.train_batches(split, data._train_rows, rank=0, world_size=1)(0)
    by_length = sorted(epoch, key=lambda rows: split.inputs.lengths[rows].max())
    places = np.linspace(0, len(by_length) - 1, 2 * count + 1).astype(int)[1::2]
    make_batch = data.batch_maker(split)
    return [make_batch(by_length[place]) for place in places]


def random_order(data: TextDataModule, count: int) -> list[Batch]:
    """Takes batches of random reviews."""
    rows = np.random.default_rng(0).permutation(data._train_rows)[: count * data.batch_size]
    split = data._split("train")
    return [data.batch_maker(split)(batch) for batch in ordered_batches(rows, batch_size=data.batch_size)(0)]


def in_turns(candidates: dict[str, tuple[Callable[[], None], list[Batch]]], settings: Settings) -> list[Row]:
    """Compares passes over batches, after one pass of each that is not counted."""
    for step, _ in candidates.values():
        step()
    counts = {name: sum(len(batch.labels) for batch in batches) for name, (_, batches) in candidates.items()}
    timed = {name: partial(cpu_seconds, step) for name, (step, _) in candidates.items()}
    return compare(timed, settings, counts, "documents")


def tokenizing(settings: Settings) -> list[Row]:
    """Measures raw text to token ids on all cores: learning a training vocabulary, and tokenising all texts."""
    data = reviews(settings)
    train, test = ([*data.open_split(split, text_column="text")["text"]] for split in ("train", "test"))
    rows: list[Row] = []
    for kind in ("words", "byte_level_bpe"):
        wall, cpu = time.perf_counter(), time.process_time()
        tokenize(train_tokenizer(train, kind, 25_000), [*train, *test])
        seconds = {"s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
        rows.append({"tokenizer": kind, "documents": len(train) + len(test), **seconds})
    return rows


def batching(settings: Settings) -> list[Row]:
    """Compares the classic network on random batches, on batches of similar length, and with faster settings."""
    network = LSTMClassifier(25_000)
    data, cut = reviews(settings), reviews(settings, max_tokens=400)
    count = settings.scaled(12, 1)
    by_length, by_length_cut = spread(data, count), spread(cut, count)
    batches = {
        "random order": (random_order(data, -(-count // 2)), "32"),
        "by length": (by_length, "32"),
        "by length, bf16-mixed": (by_length, "bf16"),
        "by length, 400 tokens": (by_length_cut, "32"),
        "by length, 400 tokens, bf16-mixed": (by_length_cut, "bf16"),
    }
    return in_turns(
        {
            name: (training_step(network, part, precision), part)
            for name, (part, precision) in batches.items()
            if precision in PRECISIONS
        },
        settings,
    )


class PackedLSTMClassifier(nn.Module):
    """The network of tutorials: torch's bidirectional LSTM on a packed sequence, the maximum over time, and a head."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25_000, 100)
        self.lstm = nn.LSTM(100, hidden_size, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden_size, 2)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the logits [batch, 2] of token ids [batch, time]."""
        packed = pack_padded_sequence(self.embedding(token_ids), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=float("-inf"))
        logits: Tensor = self.head(states.amax(1))
        return logits


def directions(settings: Settings) -> list[Row]:
    """Compares the bidirectional LSTM over reversed sequences with the packed one, on the same batches by length."""
    part = spread(reviews(settings), settings.scaled(3, 1))
    networks = {
        "packed": PackedLSTMClassifier(128),
        "reversed within length": LSTMClassifier(25_000, hidden_size=128, bidirectional=True, pooling="max"),
    }
    return in_turns({name: (training_step(network, part), part) for name, network in networks.items()}, settings)


class Epochs(L.Callback):
    """Writes the CPU time and the hold-out accuracy of every epoch to a file.

    Args:
        file: The file to append to.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock, after the validation at the end of the epoch."""
        seconds, accuracy = time.process_time() - self.start, float(trainer.callback_metrics["val/accuracy"])
        classic_lstm.write(self.file, "by config", f"epoch {trainer.current_epoch + 1}", seconds, accuracy)


def recipe(settings: Settings) -> list[Row]:
    """Runs the classic recipe by hand and by configs/imdb_seed.yaml at the same time, which takes an hour or two."""
    epochs = settings.scaled(10, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "epochs.jsonl")
        hand = multiprocessing.get_context("spawn").Process(
            target=classic_lstm.train, args=(reviews(settings), epochs, file)
        )
        hand.start()
        callback = {"class_path": f"{__name__}.Epochs", "init_args": {"file": str(file)}}
        data = ["--data", "DemoTexts", "--data.train_fraction", "0.05"] if settings.quick else []
        run = ["--logs", folder, "--trainer.max_epochs", str(epochs), "--trainer.callbacks+", json.dumps(callback)]
        main(["fit", "--config", str(CONFIG), *data, *run, *settings.arguments])
        hand.join()
        # The loop by hand tests the last state, and the config tests the best state on the hold-out.
        record: dict[str, Any] = json.loads(next(Path(folder).rglob("results.json")).read_text())
        classic_lstm.write(file, "by config", "test", 0.0, record["test"]["test/accuracy"])
        return [json.loads(line) for line in file.read_text().splitlines()]


PARTS: dict[str, Part] = {
    "tokenizing": tokenizing,
    "batching": batching,
    "directions": directions,
    "recipe": recipe,
}
