"""The language model: its streams, its softmax, its perplexity, and that a resumed run is the uninterrupted one."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_transfer import (
    Classifier,
    DemoTexts,
    DemoTextStreams,
    LanguageModel,
    LSTMClassifier,
    LSTMLanguageModel,
    load_starting_weights,
)
from lightning_transfer.data.token_streams import longest_segment, segment_ends, stream_of
from lightning_transfer.data.tokenizer import SEPARATOR_ID, Documents
from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import resolve_layer_groups
from lightning_transfer.networks.lstm_language_model import TiedAdaptiveSoftmax

DROPOUTS = {
    **{"word_dropout": 0.1, "embedding_dropout": 0.1, "dropout": 0.2, "output_dropout": 0.2, "weight_dropout": 0.3},
    "variational_dropout": True,
}


def streams(**arguments: Any) -> DemoTextStreams:
    return DemoTextStreams(**{"batch_size": 8, "segment_tokens": 20, "validation_fraction": 0.05, **arguments})


def model(vocabulary_size: int, penalties: float = 0.0, **arguments: Any) -> LanguageModel:
    sizes = {"embedding_size": 12, "hidden_size": 16, "num_layers": 2, "cutoffs": [20, 60], "embedding_scale": 0.1}
    return LanguageModel(
        LSTMLanguageModel(vocabulary_size, **{**sizes, **arguments}),
        activation_penalty=penalties,
        temporal_activation_penalty=penalties,
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
        lr_schedule="cosine",
        warmup_fraction=0.2,
    )


def trainer(*callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    defaults = {"devices": 1, "num_sanity_val_steps": 0, "enable_checkpointing": saves, "gradient_clip_val": 0.5}
    return L.Trainer(callbacks=list(callbacks), **{**quiet, **defaults, **arguments})


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


DOCUMENTS = Documents(np.arange(10, 70, dtype=np.int32), np.array([0, 5, 12, 30, 60]))


def test_stream_holds_every_document_whole_and_set_apart() -> None:
    stream = stream_of(DOCUMENTS, np.array([2, 0, 3]))
    expected = [*range(22, 40), SEPARATOR_ID, *range(10, 15), SEPARATOR_ID, *range(40, 70), SEPARATOR_ID]
    assert stream.tolist() == expected


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_segments_cover_the_stream_once(seed: int | None) -> None:
    ends = segment_ends(1000, 20, seed)
    lengths = np.diff([0, *ends])
    assert ends[-1] == 1000
    assert (lengths > 0).all()
    assert (len(set(lengths.tolist())) > 3) == (seed is not None)
    assert 15 < np.median(lengths) < 25


@pytest.mark.parametrize("segment_tokens", [1, 8, 35, 500])
def test_no_segment_is_longer_than_what_is_said(segment_tokens: int) -> None:
    ends = segment_ends(2_000_000 * segment_tokens // 35, segment_tokens, 0)
    assert np.diff([0, *ends]).max() <= max(5, longest_segment(segment_tokens))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_batches_go_on_where_the_one_before_ended_and_labels_are_one_step_ahead(direction: str) -> None:
    data = streams(direction=direction)
    data.prepare_data()
    batches = list(data.train_dataloader())
    text = torch.cat([batch.token_ids for batch in batches])
    labels = torch.cat([batch.labels.view_as(batch.token_ids) for batch in batches])
    assert torch.equal(text[1:], labels[:-1])
    # In each stream stand training documents, in their order or from their end.
    known = {tuple(DOCUMENT.tolist()) for DOCUMENT in np.split(data.documents.token_ids, data.documents.offsets[1:-1])}
    stream = text[:, 3].tolist()
    marks = [place for place, token in enumerate(stream) if token == SEPARATOR_ID]
    pieces = [stream[start + 1 : stop] for start, stop in pairwise(marks)]
    assert len(pieces) > 100
    assert all(tuple(piece if direction == "forward" else piece[::-1]) in known for piece in pieces)


def test_ranks_share_the_streams_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def tokens(rank: int, world_size: int) -> Tensor:
        data = streams(tasks=("target",), batch_size=4)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
        return torch.cat([batch.token_ids for batch in data.train_dataloader()])

    whole, *shares = tokens(0, 1), tokens(0, 2), tokens(1, 2)
    assert [share.shape[1] for share in shares] == [2, 2]
    assert torch.equal(torch.stack(shares, 2).flatten(1), whole)


def test_documents_are_read_in_the_vocabulary_of_the_checkpoint() -> None:
    small, data = (streams(tasks=("target",), max_vocabulary_size=size) for size in (20, 1000))
    data.prepare_data()
    data.load_state_dict(small.state_dict())
    assert data.documents.token_ids.max() == 19


def test_hold_out_is_not_trained_on_and_epochs_have_other_orders() -> None:
    data = streams()
    data.prepare_data()
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        epochs.append(torch.cat([batch.token_ids.flatten() for batch in loader]))
    assert epochs[0].shape == epochs[1].shape
    assert not torch.equal(*epochs)
    train, validation = data._divide()
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == len(data.documents.lengths)
    assert len(validation) == round(0.05 * 4200)


def test_test_reviews_are_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_transfer.data import demo_texts

    opened = []
    generate = demo_texts.generate
    monkeypatch.setattr(demo_texts, "generate", lambda task, split: opened.append(split) or generate(task, split))
    trainer(max_steps=2, limit_val_batches=1).fit(model(175), datamodule=(data := streams(max_vocabulary_size=175)))
    assert data.vocabulary_size == 175
    assert set(opened) == {"train"}


@pytest.mark.parametrize("cutoffs", [[], [4], [3, 7]])
@pytest.mark.parametrize("input_size", [6, 5])
def test_adaptive_softmax_is_a_distribution_and_its_loss_is_that_of_the_label(
    cutoffs: list[int], input_size: int
) -> None:
    torch.manual_seed(0)
    head, weight, states = (
        TiedAdaptiveSoftmax(12, 6, cutoffs, input_size),
        torch.randn(12, 6),
        torch.randn(9, input_size),
    )
    nn.init.normal_(head.bias)
    labels = torch.tensor([0, 3, 4, 6, 7, 11, 2, 2, 8])
    log_probabilities = head.log_probabilities(states, weight)
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(9))
    torch.testing.assert_close(head(states, weight, labels), -log_probabilities[torch.arange(9), labels])


def test_adaptive_softmax_of_one_cluster_is_the_tied_softmax() -> None:
    torch.manual_seed(0)
    head, weight, states, labels = (
        TiedAdaptiveSoftmax(12, 6, [], 6),
        torch.randn(12, 6),
        torch.randn(9, 6),
        torch.arange(9),
    )
    expected = nn.functional.cross_entropy(states @ weight.T + head.bias, labels, reduction="none")
    torch.testing.assert_close(head(states, weight, labels), expected)


def test_segments_with_the_state_carried_are_the_text_read_at_once() -> None:
    torch.manual_seed(0)
    network, ids = (
        LSTMLanguageModel(30, embedding_size=6, hidden_size=7, num_layers=2).eval(),
        torch.randint(30, (13, 4)),
    )
    whole, *_ = network(ids[:-1], ids[1:].flatten())
    parts, state = [], None
    for start, stop in ((0, 5), (5, 12)):
        losses, _, _, state = network(ids[start:stop], ids[start + 1 : stop + 1].flatten(), state)
        parts.append(losses)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_weight_dropout_drops_recurrent_weights_in_training_alone() -> None:
    torch.manual_seed(0)
    network, ids = LSTMLanguageModel(30, embedding_size=6, hidden_size=7, weight_dropout=0.5), torch.randint(30, (9, 4))
    before = weights(network)
    first, second = (network(ids[:-1], ids[1:].flatten())[0] for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert network.lstm[0].forward_direction.weight_hh_l0.grad.count_nonzero() < 28 * 7  # a dropped weight gets none
    assert equal(before, weights(network))
    network.eval()
    assert torch.equal(*(network(ids[:-1], ids[1:].flatten())[0] for _ in range(2)))


def test_layer_groups_take_every_parameter_once() -> None:
    module = model(100)
    groups = resolve_layer_groups(module, module.layer_groups)
    assert list(groups) == ["embedding", "lstm.0", "lstm.1", "head"]
    assert sum(len(group.parameters) for group in groups.values()) == len(list(module.parameters()))


def run(folder: Path, checkpoint: Path | None = None) -> list[Tensor]:
    """Two short epochs with everything on, saved every four steps: in mid-epoch and at the end of the first."""
    L.seed_everything(0)
    data = streams(tasks=("target",), batch_size=4)
    saving = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    module = model(data.vocabulary_size, penalties=1.0, **DROPOUTS)
    runner = trainer(saving, max_epochs=2, limit_train_batches=12, val_check_interval=6)
    runner.fit(module, datamodule=data, ckpt_path=checkpoint)
    assert runner.global_step == 24
    return weights(module)


def test_state_is_carried_within_an_epoch_and_never_into_the_next() -> None:
    data, starts = streams(tasks=("target",)), []
    module = model(data.vocabulary_size)
    module.network.register_forward_pre_hook(lambda _, inputs: starts.append(inputs[2] is None))
    trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0).fit(module, datamodule=data)
    assert starts == [True, False, False] * 2  # the next epoch has the documents in another order


def test_overfit_batches_are_the_same_in_every_epoch() -> None:
    seen: list[Tensor] = []

    class Tokens(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: int) -> None:
            seen.append(batch.token_ids.flatten())

    data = streams()
    trainer(Tokens(), max_epochs=2, overfit_batches=2).fit(model(data.vocabulary_size), datamodule=data)
    assert len(seen) == 4
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder)


@pytest.mark.parametrize("step", [4, 8, 12, 16, 20])
def test_resumed_run_equals_the_uninterrupted_one(
    uninterrupted: tuple[Path, list[Tensor]], step: int, tmp_path: Path
) -> None:
    folder, expected = uninterrupted
    assert equal(run(tmp_path, folder / f"step={step}.ckpt"), expected)


def test_checkpoint_holds_the_carried_state_and_the_place(uninterrupted: tuple[Path, list[Tensor]]) -> None:
    saved = torch.load(uninterrupted[0] / "step=16.ckpt", weights_only=True)
    assert [tuple(hidden.shape) for hidden, _ in saved["carried_state"]] == [(1, 4, 16), (1, 4, 16)]
    assert all(state.abs().sum() > 0 for layer in saved["carried_state"] for state in layer)
    assert saved["DemoTextStreams"]["place"] == {"epoch": 1, "position": 4}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_penalties_and_the_log_work_in_every_precision(precision: str) -> None:
    data = streams()
    module = model(data.vocabulary_size, penalties=1.0)
    runner = trainer(max_epochs=1, limit_train_batches=4, limit_val_batches=1, precision=precision, log_every_n_steps=4)
    runner.fit(module, datamodule=data)
    loss = math.log(data.vocabulary_size)
    assert float(runner.callback_metrics["train/loss"]) == pytest.approx(loss, rel=0.2)


def test_checkpoint_opens_without_a_trainer(uninterrupted: tuple[Path, list[Tensor]]) -> None:
    network = model(streams(tasks=("target",)).vocabulary_size, **DROPOUTS).network
    module = LanguageModel.load_from_checkpoint(uninterrupted[0] / "step=24.ckpt", network=network)
    assert equal(weights(module), uninterrupted[1])


def bigram_perplexity(train: np.ndarray, validation: np.ndarray, size: int) -> float:
    """Of bigrams interpolated with single tokens, with the weight that is best for the hold-out itself."""
    unigram = np.bincount(train, minlength=size) + 1.0
    pairs = np.bincount(train[:-1] * size + train[1:], minlength=size * size).reshape(size, size)
    bigram = pairs[validation[:-1], validation[1:]] / np.maximum(1, pairs.sum(1))[validation[:-1]]
    single = unigram[validation[1:]] / unigram.sum()
    return min(math.exp(-np.log(share * bigram + (1 - share) * single).mean()) for share in np.linspace(0.05, 0.99, 20))


@pytest.mark.slow
def test_perplexity_beats_bigrams_of_the_same_vocabulary_by_far() -> None:
    L.seed_everything(0)
    data = streams()
    data.prepare_data()
    module = model(data.vocabulary_size, embedding_size=32, hidden_size=64, num_layers=1)
    runner = trainer(max_epochs=1)
    runner.fit(module, datamodule=data)
    train, validation = (stream_of(data.documents, rows) for rows in data._divide())
    baseline = bigram_perplexity(train, validation, data.vocabulary_size)
    # The sentences are drawn at random: much of what comes next nobody can know.
    assert float(runner.callback_metrics["val/perplexity"]) < 0.75 * baseline


def test_encoder_of_the_language_model_goes_into_the_classifier_by_name(tmp_path: Path) -> None:
    data, target = streams(), DemoTexts("target")
    runner, module = trainer(max_steps=1, limit_val_batches=0), model(data.vocabulary_size)
    runner.fit(module, datamodule=data)
    runner.save_checkpoint(tmp_path / "lm.ckpt")
    network = LSTMClassifier(target.vocabulary_size, 2, embedding_size=12, hidden_size=16, num_layers=2, pooling="all")
    report = load_starting_weights(Classifier(network, 2), str(tmp_path / "lm.ckpt"), vocabulary=target.vocabulary)
    assert set(report.made_anew) == {"network.head.weight", "network.head.bias"}
    assert all(name.startswith("network.head.") for name in report.left_over)
    assert list(report.by_token) == ["network.embedding.weight"]
    for ours, theirs in zip(network.lstm.parameters(), module.network.lstm.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    token = "wonderful"
    ours, theirs = target.vocabulary.index(token), data.vocabulary.index(token)
    assert torch.equal(network.embedding.weight[ours], module.network.embedding.weight[theirs])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LSTMLanguageModel(30, cutoffs=[40]),
            r"network.cutoffs are \[40\]: expected rising numbers .* 30 tokens",
        ),
        (lambda: LSTMLanguageModel(30, cutoffs=[9, 9]), r"network.cutoffs are \[9, 9\]"),
        (lambda: LSTMLanguageModel(30, bidirectional=True), "would let the language model see the next token"),
        (lambda: LSTMLanguageModel(30, weight_dropout=1.0), "network.weight_dropout is 1.0: expected at least 0 and"),
        (lambda: streams(split_seed=-1), "data.split_seed is -1: expected 0 or more"),
        (lambda: streams(segment_tokens=0), "data.segment_tokens is 0: expected 1 or more"),
        (lambda: streams(validation_fraction=1.5), "data.validation_fraction is 1.5: expected above 0 and below 1"),
        (lambda: streams(validation_fraction=1e-9)._divide(), "of 4200 documents: expected at least one"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
