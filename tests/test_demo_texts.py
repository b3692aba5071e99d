"""The embedded reviews: reproducible, balanced, out of a bag of words' reach, and worth transferring between."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from lightning_transfer import LSTMClassifier
from lightning_transfer.data.demo_texts import CLASS_NAMES, Split, Task, generate
from lightning_transfer.data.tokenizer import tokenize, train_tokenizer
from lightning_transfer.errors import UserError

TASKS: tuple[Task, ...] = ("source", "target")
SPLITS: tuple[Split, ...] = ("train", "test")
Demo = dict[tuple[Task, Split], tuple[list[str], npt.NDArray[np.int64]]]


@pytest.fixture(scope="module")
def demo() -> Demo:
    splits = {(task, split): generate(task, split) for task in TASKS for split in SPLITS}
    return {key: ([*data["text"]], np.array([*data["label"]])) for key, data in splits.items()}


def test_source_is_large_and_target_has_few_training_but_many_test_reviews(demo: Demo) -> None:
    assert {key: len(labels) for key, (_, labels) in demo.items()} == {
        ("source", "train"): 4000,
        ("source", "test"): 2000,
        ("target", "train"): 200,
        ("target", "test"): 2000,
    }


def test_classes_are_named_nearly_balanced_and_in_random_order(demo: Demo) -> None:
    assert generate("source", "test", count=2).features["label"].names == CLASS_NAMES
    for _, labels in demo.values():
        assert abs(labels.mean() - 0.5) < 0.05
        assert 5 < labels[:50].sum() < 45


def test_no_review_occurs_twice_within_or_across_splits_and_domains(demo: Demo) -> None:
    texts = [text for texts, _ in demo.values() for text in texts]
    assert len(set(texts)) == len(texts)


def test_every_machine_writes_the_same_reviews() -> None:
    written = {task: hashlib.sha256("\n".join(generate(task, "train", 7, 20)["text"]).encode()) for task in TASKS}
    assert {task: digest.hexdigest()[:16] for task, digest in written.items()} == {
        "source": "e6f49798e1466c5c",
        "target": "d0b71521f0d33ec8",
    }


def test_another_seed_writes_other_reviews() -> None:
    assert generate("source", "test", 0, 5)["text"][:] != generate("source", "test", 1, 5)["text"][:]


@pytest.mark.parametrize("split", SPLITS)
def test_fewer_reviews_are_the_first_of_more(split: Split) -> None:
    assert generate("target", split, 0, 10)["text"][:] == generate("target", split, 0)["text"][:10]


def _counts(texts: list[str], words: list[str]) -> npt.NDArray[np.float64]:
    column = {word: index for index, word in enumerate(words)}
    counts = np.zeros((len(texts), len(words) + 1))
    counts[:, -1] = 1
    for row, text in enumerate(texts):
        for word in text.split():
            if word in column:
                counts[row, column[word]] += 1
    return counts


@pytest.mark.parametrize("task", TASKS)
def test_bag_of_words_is_close_to_chance(task: Task, demo: Demo) -> None:
    """Ridge regression on word counts, trained on as many reviews as the test split of the domain has."""
    (texts, labels), (test_texts, test_labels) = demo[task, "test"], demo[task, "train"]
    words = sorted({word for text in texts for word in text.split()})
    features, unseen = _counts(texts, words), _counts(test_texts, words)
    gram = features.T @ features + 10 * np.eye(len(words) + 1)
    weights = np.linalg.solve(gram, features.T @ (2 * labels - 1))
    assert ((unseen @ weights > 0) == test_labels).mean() < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sauce", "train"), "demo task 'sauce' is not one of source, target"),
        (("source", "val"), "demo split 'val' is not one of train, test"),
        (("source", "train", -1), "demo seed is -1: expected 0 or more"),
        (("target", "train", 0, 201), "demo count is 201: expected 2 to 200"),
        (("target", "train", 0, 1), "demo count is 1: expected 2 to 200"),
    ],
)
def test_bad_argument_is_a_user_error_that_names_the_way_out(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        generate(*arguments)
    assert str(error.value) == message


def _accuracy_after_training(
    network: LSTMClassifier, tokenizer: Tokenizer, demo: Demo, task: Task, epochs: int, learning_rate: float
) -> float:
    def batch(split: Split, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        texts, labels = demo[task, split]
        ids = [torch.from_numpy(tokenize(tokenizer, [texts[row]]).token_ids) for row in rows]
        lengths = torch.tensor([len(document) for document in ids])
        return nn.utils.rnn.pad_sequence(ids, batch_first=True), lengths, torch.from_numpy(labels[rows])

    count = len(demo[task, "train"][1])
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    total_steps = epochs * -(-count // 32)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=total_steps)
    train_batches = [batch("train", rows.numpy()) for rows in torch.randperm(count).split(32)]
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(len(train_batches)).tolist():
            token_ids, lengths, labels = train_batches[index]
            optimizer.zero_grad()
            F.cross_entropy(network(token_ids, lengths), labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    network.eval()
    token_ids, lengths, labels = batch("test", np.arange(2000))
    with torch.no_grad():
        return (network(token_ids, lengths).argmax(1) == labels).double().mean().item()


@pytest.mark.slow
def test_lstm_learns_the_source_and_transfers_to_the_target(demo: Demo) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(demo["source", "train"][0], "words", 1000)

    def network() -> LSTMClassifier:
        return LSTMClassifier(
            tokenizer.get_vocab_size(), 2, embedding_size=32, hidden_size=32, bidirectional=True, pooling="all"
        )

    pretrained, scratch = network(), network()
    source = _accuracy_after_training(pretrained, tokenizer, demo, "source", 5, 0.01)
    transferred = _accuracy_after_training(pretrained, tokenizer, demo, "target", 20, 0.003)
    from_scratch = _accuracy_after_training(scratch, tokenizer, demo, "target", 20, 0.01)
    assert source > 0.9
    assert transferred > from_scratch + 0.1
