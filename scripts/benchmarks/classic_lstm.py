"""The classic recurrent recipe as in tutorials: without a framework, with a dictionary of words and one LSTM."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_transfer import TextDataModule


class ClassicLSTM(nn.Module):
    """The network: an embedding, an LSTM, its last state, and one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25_000, 100, padding_idx=0)
        self.lstm = nn.LSTM(100, 256, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(256, 1)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the logits [batch] of token ids [batch, time]."""
        states, _ = self.lstm(self.dropout(self.embedding(token_ids)))
        last = states[torch.arange(len(lengths)), lengths - 1]
        logits: Tensor = self.head(self.dropout(last)).squeeze(1)
        return logits


class Reviews:
    """All reviews as ids of the 24,998 most frequent words of the training split.

    Args:
        data: The data module that gives the texts.
    """

    def __init__(self, data: TextDataModule) -> None:
        train, test = (data.open_split(split, text_column="text") for split in ("train", "test"))
        words = [re.findall(r"\w+|[^\w\s]", text.lower()) for part in (train, test) for text in part["text"]]
        counts = Counter(word for document in words[: len(train)] for word in document)
        vocabulary = {word: index for index, (word, _) in enumerate(counts.most_common(24_998), start=2)}
        self.ids = [torch.tensor([vocabulary.get(word, 1) for word in document]) for document in words]
        self.labels = torch.tensor([*train["label"], *test["label"]]).float()
        self.test_rows = np.arange(len(train), len(words))

    def padded(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Makes a batch of rows: their ids, right-padded, and their lengths."""
        lengths = torch.tensor([len(self.ids[row]) for row in rows])
        return nn.utils.rnn.pad_sequence([self.ids[row] for row in rows], batch_first=True), lengths

    def by_length(self, rows: np.ndarray) -> list[np.ndarray]:
        """Makes batches of 64 reviews of similar length, as row numbers."""
        rows = rows[np.argsort([len(self.ids[row]) for row in rows], kind="stable")]
        return [rows[start : start + 64] for start in range(0, len(rows), 64)]


def train(data: TextDataModule, epochs: int, file: Path) -> None:
    """Trains the recipe, and writes a line for each epoch and for the test split."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reviews, network = Reviews(data), ClassicLSTM()
    optimizer = torch.optim.Adam(network.parameters())
    generator = np.random.default_rng(0)
    for epoch in range(epochs):
        start = time.process_time()
        network.train()
        parts = reviews.by_length(generator.permutation(data._train_rows))
        for place in generator.permutation(len(parts)):
            optimizer.zero_grad()
            logits = network(*reviews.padded(parts[place]))
            nn.functional.binary_cross_entropy_with_logits(logits, reviews.labels[parts[place]]).backward()
            optimizer.step()
        held_out = _accuracy(network, reviews, data._validation_rows)
        write(file, "by hand", f"epoch {epoch + 1}", time.process_time() - start, held_out)
    write(file, "by hand", "test", 0.0, _accuracy(network, reviews, reviews.test_rows))


def _accuracy(network: nn.Module, reviews: Reviews, rows: np.ndarray) -> float:
    network.eval()
    with torch.no_grad():
        correct = [
            int(((network(*reviews.padded(part)) > 0) == reviews.labels[part].bool()).sum())
            for part in reviews.by_length(rows)
        ]
    return sum(correct) / len(rows)


def write(file: Path, candidate: str, what: str, seconds: float, accuracy: float) -> None:
    """Appends a line to the results, and prints it."""
    line = {"candidate": candidate, "after": what, "CPU s": round(seconds, 1), "accuracy": accuracy}
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(*line.values(), flush=True)
