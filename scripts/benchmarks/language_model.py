"""Compares a training step of configs/imdb_lm.yaml with the language model of a tutorial.

It needs the reviews of IMDB, from a mirror or the Hub; with --quick it takes the embedded ones.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import PRECISIONS, Part, Row, Settings, compare, cpu_seconds
from benchmarks.ngrams import perplexity
from lightning_transfer import DemoTextStreams, LanguageModelDataModule, LSTMLanguageModel
from lightning_transfer.data.token_streams import TokenBatch, stream_of
from lightning_transfer.modules.language_model import mean_square
from lightning_transfer.networks.lstm_layer import LayerState

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "imdb_lm.yaml"
State = tuple[Tensor, Tensor]


class PlainLanguageModel(nn.Module):
    """An embedding, torch's LSTM and a linear layer to all words, without dropout, penalties or tied weights."""

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size)
        self.head = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, batch: TokenBatch, state: State | None) -> tuple[Tensor, State]:
        """Computes the loss of a segment, and the state after it."""
        states, last = self.lstm(self.embedding(batch.token_ids), state)
        return F.cross_entropy(self.head(states.flatten(0, 1)).float(), batch.labels), (
            last[0].detach(),
            last[1].detach(),
        )


class OurLanguageModel(nn.Module):
    """The network of the config with its dropouts and penalties, in the way LanguageModel trains it."""

    def __init__(self, vocabulary_size: int, model: dict[str, Any]) -> None:
        super().__init__()
        self.network = LSTMLanguageModel(vocabulary_size, **model["network"]["init_args"])
        self.penalties = model["activation_penalty"], model["temporal_activation_penalty"]

    def forward(self, batch: TokenBatch, state: list[LayerState] | None) -> tuple[Tensor, list[LayerState]]:
        """Computes the loss of a segment, and the state after it."""
        losses, states, dropped, last = self.network(batch.token_ids, batch.labels, state)
        activation, temporal = self.penalties
        loss = losses.mean() + activation * mean_square(dropped)
        loss = loss + temporal * mean_square(states.diff(dim=0))
        return loss, [(hidden.detach(), cell.detach()) for hidden, cell in last]


def training(network: nn.Module, batches: list[TokenBatch], precision: str) -> Callable[[], None]:
    """Makes a pass over successive segments, with forward, backward, clipping and an Adam step for each."""
    optimizer = torch.optim.Adam(network.parameters())

    def steps() -> None:
        state = None
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, state = network(batch, state)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.25)
            optimizer.step()

    return steps


def step(settings: Settings) -> list[Row]:
    """Compares a training step of configs/imdb_lm.yaml with nn.LSTM and a softmax over all 30,000 words."""
    config = yaml.safe_load(CONFIG.read_text())
    if settings.quick:
        data: LanguageModelDataModule = DemoTextStreams()
    else:
        data = LanguageModelDataModule(**{**config["data"]["init_args"], "varied_segments": False})
    batches = list(islice(data.train_dataloader(), settings.scaled(3, 1)))
    model = config["model"]["init_args"]
    sizes = model["network"]["init_args"]
    vocabulary = max(data.vocabulary_size, sizes["cutoffs"][-1] + 1)
    plain = PlainLanguageModel(vocabulary, sizes["embedding_size"], sizes["hidden_size"])
    ours = OurLanguageModel(vocabulary, model)
    networks = {
        "nn.LSTM, full softmax": (plain, "32"),
        "the same, bf16-mixed": (plain, "bf16"),
        "LSTMLanguageModel": (ours, "32"),
        "LSTMLanguageModel, bf16-mixed": (ours, "bf16"),
    }
    candidates = {
        name: training(network, batches, precision)
        for name, (network, precision) in networks.items()
        if precision in PRECISIONS
    }
    for steps in candidates.values():
        steps()
    timed = {name: partial(cpu_seconds, steps) for name, steps in candidates.items()}
    return compare(timed, settings, sum(len(batch.labels) for batch in batches), "tokens")


def trigrams(settings: Settings) -> list[Row]:
    """Computes the perplexity of Kneser-Ney trigrams on the hold-out and vocabulary of configs/imdb_lm.yaml."""
    config = yaml.safe_load(CONFIG.read_text())
    data = DemoTextStreams() if settings.quick else LanguageModelDataModule(**config["data"]["init_args"])
    train, validation = (stream_of(data.documents, rows) for rows in data._divide())
    found = perplexity(train, validation, data.vocabulary_size)
    return [{"tokens read": len(train), "tokens judged": len(validation), "perplexity": found}]


PARTS: dict[str, Part] = {"step": step, "trigrams": trigrams}
