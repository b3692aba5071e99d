"""Language models of transformers: what they predict, on what, and what their encoders give a classifier."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import transformers
from backbones import QUIET, TOKENS, TRANSFORMERS, parameters_of_groups, word_pieces
from conftest import run_folder
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from lightning_transfer import (
    DemoTextStreams,
    LanguageModel,
    LSTMLanguageModel,
    TransformersLanguageModel,
    TransformersNetwork,
    load_starting_weights,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.masking import mask_tokens
from lightning_transfer.errors import UserError


def language_model(name: str, seed: int = 0, **entries: Any) -> TransformersLanguageModel:
    torch.manual_seed(seed)
    return TransformersLanguageModel(model_arguments={"model_type": name, **MODELS[name], **entries})


OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "word_embed_proj_dim": 16}
MODELS = TRANSFORMERS | {"opt": {**OPT, **TOKENS}}  # whose language model calls a part of its model


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_library_at_the_tokens_to_predict(name: str) -> None:
    network = language_model(name).eval()
    assert network.is_masked == (name not in ("gpt2", "llama", "opt"))
    token_ids = torch.randint(4, 60, (7, 3))
    labels = torch.randint(4, 60, (21,))
    if network.is_masked:
        labels[torch.arange(21) % 4 != 0] = -100
    losses, states, _, last = network(token_ids, labels)
    logits = network.model(input_ids=token_ids.t()).logits.transpose(0, 1).flatten(0, 1)
    expected = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
    torch.testing.assert_close(losses, expected)
    assert len(states) == len(losses)
    assert last == []
    losses.mean().backward()
    groups = parameters_of_groups(network)
    assert list(groups) == ["embeddings", "layer.0", "layer.1", "layer.2", "head"]
    assert sum(map(len, groups.values())) == len(list(network.parameters()))


def test_a_segment_without_a_masked_token_has_no_loss() -> None:
    losses, *_ = language_model("bert")(torch.full((2, 2), 5), torch.full((4,), -100))
    assert losses.tolist() == []
    losses.sum().backward()


def test_masked_tokens_are_chosen_by_share_and_by_seed_and_never_special_ones() -> None:
    stream = np.tile(np.arange(50, dtype=np.int32), 2000)
    read, labels = mask_tokens(stream, 0.15, mask=3, kept=[0, 1], vocabulary_size=50, seed=[0]).T
    is_chosen = labels != -100
    assert np.array_equal(labels[is_chosen], stream[is_chosen])
    assert np.array_equal(read[~is_chosen], stream[~is_chosen])
    assert not np.isin(stream[is_chosen], [0, 1]).any()
    assert is_chosen[stream > 1].mean() == pytest.approx(0.15, abs=0.005)
    chosen, were = read[is_chosen & (stream != 3)], stream[is_chosen & (stream != 3)]
    assert (chosen == 3).mean() == pytest.approx(0.8, abs=0.02)
    assert ((chosen != 3) & (chosen != were)).mean() == pytest.approx(0.1, abs=0.02)
    again, other = (mask_tokens(stream, 0.15, 3, [0, 1], 50, seed) for seed in ([0], [1]))
    assert np.array_equal(again[:, 0], read)
    assert not np.array_equal(other[:, 0], read)


def test_streams_of_a_masked_model_hold_marked_documents_and_another_mask_in_each_epoch(tmp_path: Path) -> None:
    data = DemoTextStreams(tokenizer=str(word_pieces(tmp_path)), masked_fraction=0.15, batch_size=4)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    first, other, again = epochs
    tokens = data.special_tokens
    for batch, same in zip(first, again, strict=True):
        assert torch.equal(batch.token_ids, same.token_ids)
        assert torch.equal(batch.labels, same.labels)
    labels, ids = (torch.cat([getattr(batch, key).flatten() for batch in first]) for key in ("labels", "token_ids"))
    assert not torch.equal(labels, torch.cat([batch.labels for batch in other]))
    assert (labels != -100).float().mean() == pytest.approx(0.14, abs=0.02)
    whole = torch.where(labels == -100, ids, labels)
    assert tokens.mask in ids
    assert tokens.mask not in whole
    starts, ends = int((whole == tokens.before[0]).sum()), int((whole == tokens.after[0]).sum())
    assert starts > 100
    assert abs(starts - ends) <= 8


def test_positions_stay_where_the_vocabulary_is_another_of_equally_many_tokens(tmp_path: Path) -> None:
    source = language_model("gpt2", vocab_size=40)
    positions = source.model.transformer.wpe.weight
    assert len(positions) == 40
    tokens = [f"t{number}" for number in range(40)]
    vocabulary = json.dumps({"model": {"vocab": {token: number for number, token in enumerate(tokens)}}})
    weights = {f"network.{name}": value for name, value in source.state_dict().items()}
    content = {"pytorch-lightning_version": "2", "state_dict": weights, "Data": {"tokenizer": vocabulary}}
    torch.save(content, tmp_path / "source.ckpt")
    loaded = LanguageModel(language_model("gpt2", vocab_size=40))
    load_starting_weights(loaded, tmp_path / "source.ckpt", vocabulary=tokens[::-1])
    found: Any = loaded.network
    assert torch.equal(found.model.transformer.wpe.weight, positions)
    assert torch.equal(found.model.transformer.wte.weight, source.model.transformer.wte.weight.flip(0))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"temporal_activation_penalty": 1.0}, {}, "temporal_activation_penalty is 1.0: expected 0 with Transformers"),
        ({}, {"direction": "backward"}, "data.direction is backward: expected forward with TransformersLanguageModel"),
        ({}, {"segment_tokens": 35, "varied_segments": True}, "GPT2LMHeadModel reads 40 tokens at most, not 53: set"),
    ],
)
def test_what_a_transformer_cannot_read_is_refused_before_the_training(model: Any, data: Any, message: str) -> None:
    streams = DemoTextStreams(**{"segment_tokens": 16, "varied_segments": False, **data})
    module = LanguageModel(language_model("gpt2", vocab_size=streams.vocabulary_size), **model)
    with pytest.raises(UserError, match=message):
        L.Trainer(max_steps=1, enable_checkpointing=False, **QUIET).fit(module, datamodule=streams)


@pytest.mark.parametrize(
    ("network", "fraction", "message"),
    [
        ("bert", 0.0, "data.masked_fraction is 0.0: expected 0.15, as this TransformersLanguageModel predicts masked"),
        ("gpt2", 0.15, "data.masked_fraction is 0.15: expected 0, as this TransformersLanguageModel predicts the next"),
        ("lstm", 0.15, "data.masked_fraction is 0.15: expected 0, as this LSTMLanguageModel predicts the next tokens"),
    ],
)
def test_data_that_wants_other_tokens_predicted_than_the_network_is_refused(
    network: str, fraction: float, message: str, tmp_path: Path
) -> None:
    data = DemoTextStreams(tokenizer=str(word_pieces(tmp_path)), masked_fraction=fraction, segment_tokens=20)
    built = LSTMLanguageModel(200) if network == "lstm" else language_model(network, vocab_size=200)
    with pytest.raises(UserError, match=message):
        L.Trainer(max_steps=1, enable_checkpointing=False, **QUIET).fit(LanguageModel(built), datamodule=data)


def test_masks_need_a_tokenizer_that_has_one() -> None:
    with pytest.raises(UserError, match=r"masked_fraction is 0.15, and tokenizer words has no \[MASK\]"):
        next(iter(DemoTextStreams(masked_fraction=0.15).train_dataloader()))


def test_masked_model_goes_on_from_a_folder_and_its_encoder_into_a_classifier(tmp_path: Path) -> None:
    folder = word_pieces(tmp_path / "model")
    size = 200
    config = transformers.CONFIG_MAPPING["bert"].from_dict(TRANSFORMERS["bert"] | {"vocab_size": size})
    source = transformers.AutoModelForMaskedLM.from_config(config)
    source.save_pretrained(folder)
    trains = ["--data.tokenizer", str(folder), "--data.masked_fraction", "0.15", "--init_from", str(folder)]
    main(
        [
            *("fit", "--data", "DemoTextStreams", "--data.segment_tokens", "20", "--dashboards", "null", *trains),
            *("--model", "LanguageModel", "--model.network", "TransformersLanguageModel", "--checkpoint.monitor"),
            *("val/loss", "--model.network.name", str(folder), "--trainer.accelerator", "cpu"),
            *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "2"),
        ]
    )
    checkpoint = run_folder() / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    head = "cls.predictions.transform.dense.weight"
    torch.testing.assert_close(saved[f"network.model.{head}"], source.state_dict()[head], atol=0.1, rtol=0)
    network = TransformersNetwork(2, str(folder))
    report = load_starting_weights(network, checkpoint)
    assert set(report.made_anew) == {"head.weight", "head.bias"}
    for name, value in network.model.state_dict().items():
        assert torch.equal(value, saved[f"network.model.bert.{name}"]), name


def test_embeddings_that_are_tied_to_the_head_are_not_thrown_away_as_the_head_is(tmp_path: Path) -> None:
    torch.save(language_model("gpt2").state_dict(), tmp_path / "small.pt")
    network = language_model("gpt2", vocab_size=80)
    before = network.model.lm_head.weight.clone()
    with pytest.raises(UserError, match=r"transformer\.wte\.weight is 80 x 16, 60 x 16 in the source"):
        load_starting_weights(network, tmp_path / "small.pt")
    assert torch.equal(network.model.lm_head.weight, before)
    load_starting_weights(network, tmp_path / "small.pt", allow=["*.wte.weight", "*.lm_head.weight"])


def test_resumed_run_of_a_causal_model_ends_with_the_same_bits(tmp_path: Path) -> None:
    ends = []
    for ckpt_path in (None, tmp_path / "step=3.ckpt"):
        data = DemoTextStreams(segment_tokens=20, max_vocabulary_size=60)
        keep = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=3)
        trainer = L.Trainer(max_steps=7, callbacks=[] if ckpt_path else [keep], limit_val_batches=0, **QUIET)
        model = LanguageModel(language_model("gpt2"))
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        ends.append(model.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
