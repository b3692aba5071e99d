"""Tokenizers of pretrained models: their special tokens, the cut of long texts, padding, and the way into a run."""

import base64
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from backbones import word_pieces
from conftest import write_parquet
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lightning_transfer import DemoTexts, TextDataModule
from lightning_transfer.data.pretrained_tokenizer import special_tokens, tokenizer_of
from lightning_transfer.data.tokenizer import tokenize, train_tokenizer
from lightning_transfer.errors import UserError
from lightning_transfer.files import MIRROR_VARIABLE
from lightning_transfer.transfer.sources import read_source

LETTERS = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}


def bytes_of_gpt(folder: Path) -> Path:
    """A tokenizer as GPT-2's: bytes, no padding, and one special token that ends a text; id 0 is a real one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    return folder


def letters_of_roberta(folder: Path) -> Path:
    """A tokenizer as RoBERTa's: padding is 1, and two tokens of the same kind set apart and end."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    vocabulary |= {letter: number + 5 for letter, number in LETTERS.items()}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(vocabulary)[:5])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    tokenizer.enable_truncation(4)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    return folder


def data_of(folder: Path, texts: list[Any], tokenizer: Path | str, **options: Any) -> TextDataModule:
    columns = (
        {"text": texts}
        if isinstance(texts[0], str)
        else dict(zip(("one", "two"), zip(*texts, strict=True), strict=True))
    )
    dataset = datasets.Dataset.from_dict({**columns, "label": [row % 2 for row in range(len(texts))]})
    path = write_parquet(folder, train=dataset, test=dataset.select(range(1)))
    return TextDataModule(str(path), tokenizer=str(tokenizer), **options)


def batch_of(data: TextDataModule, rows: list[int]) -> list[list[int]]:
    batch = data.batch_maker(data.read_split("train"))(np.array(rows))
    for ids, length in zip(batch.token_ids, batch.lengths, strict=True):
        assert set(ids[length:].tolist()) <= {data.special_tokens.padding}
    return [ids[:length].tolist() for ids, length in zip(batch.token_ids, batch.lengths, strict=True)]


def test_documents_get_the_special_tokens_and_the_padding_of_the_model(tmp_path: Path) -> None:
    data = data_of(tmp_path / "set", ["a b c", "d <mask> e f g", ""], letters_of_roberta(tmp_path / "model"))
    tokens = data.special_tokens
    assert (tokens.padding, tokens.unknown, tokens.before, tokens.after, tokens.separator) == (1, 3, [0], [2], 2)
    assert tokens.mask == 4
    short, long, empty = batch_of(data, [0, 1, 2])
    assert short == [0, 5, 6, 7, 2]
    assert long[0] == 0
    assert long[-4:] == [9, 10, 11, 2]
    assert 4 not in long  # what stands in a text is never a special token
    assert empty == [0, 3, 2]


def test_long_document_keeps_a_quarter_at_its_start_and_its_end_between_the_special_tokens(tmp_path: Path) -> None:
    text = " ".join(LETTERS)
    data = data_of(tmp_path / "set", [text, "a"], letters_of_roberta(tmp_path / "model"), max_tokens=10)
    long, short = batch_of(data, [0, 1])
    assert long == [0, *(5 + LETTERS[letter] for letter in "abuvwxyz"), 2]
    assert short == [0, 5, 2]
    [batch] = data.eval_batches(data.read_split("train"), np.arange(2))(0)
    assert len(batch) == 2
    cramped = data_of(tmp_path / "other", ["a b", "c"], tmp_path / "model", max_tokens=2)
    with pytest.raises(UserError, match=r"data\.max_tokens is 2: expected 3 or more"):
        batch_of(cramped, [0])


def test_texts_of_a_row_are_set_apart_as_the_model_does(tmp_path: Path) -> None:
    texts = [("a", "b c"), ("", "d")]
    data = data_of(tmp_path / "set", texts, letters_of_roberta(tmp_path / "model"), text_column=["one", "two"])
    assert batch_of(data, [0, 1]) == [[0, 5, 2, 6, 7, 2], [0, 3, 2, 8, 2]]


def test_tokenizer_whose_padding_is_an_unknown_word_is_refused_for_several_columns(tmp_path: Path) -> None:
    folder = letters_of_roberta(tmp_path / "model")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<unk>"}))
    data = data_of(tmp_path / "set", [("a b", "c"), ("a zebra", "b")], folder, text_column=["one", "two"])
    with pytest.raises(UserError, match="the tokenizer has one token for padding and for unknown words"):
        batch_of(data, [0, 1])


def test_model_without_padding_pads_with_the_end_of_a_text(tmp_path: Path) -> None:
    texts = [("!", "a!b"), ("", "cd")]
    data = data_of(tmp_path / "set", texts, bytes_of_gpt(tmp_path / "model"), text_column=["one", "two"])
    tokens = data.special_tokens
    assert tokens.padding == tokens.separator == 256
    assert (tokens.before, tokens.after, tokens.mask) == ([], [], None)
    assert data.vocabulary_size == 257
    (first, second), names = batch_of(data, [0, 1]), data.vocabulary
    assert [names[token] for token in first] == ["!", "<|endoftext|>", "a", "!", "b"]
    assert first[0] == 0
    assert second[1:] == [256, names.index("c"), names.index("d")]
    assert second[0] != 256
    assert data.read_tokens([0]) == ["!"]


def test_tokenizer_is_found_by_id_folder_or_file_and_travels_in_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = letters_of_roberta(tmp_path / "mirror/owner/model")
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "mirror"))
    by_id = DemoTexts(tokenizer="owner/model", validation_fraction=0.5)
    by_file = DemoTexts(tokenizer=str(folder / "tokenizer.json"))
    assert by_id.tokenizer.to_str() == DemoTexts(tokenizer=str(folder)).tokenizer.to_str() == by_file.tokenizer.to_str()
    by_id.setup("fit")
    state = by_id.state_dict()
    monkeypatch.delenv(MIRROR_VARIABLE)
    other = DemoTexts(tokenizer="owner/model")
    other.load_state_dict(state)
    assert other.special_tokens == by_id.special_tokens
    assert other.vocabulary_size == 31


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            "word",
            "data.tokenizer is word: expected words, byte_level_bpe, a Hub id as owner/name, a folder or a tokenizer",
        ),
        ("empty", "data.tokenizer empty has no tokenizer.json: save one by save_pretrained"),
        ("broken", "broken/tokenizer.json is not a tokenizer: "),
        ("nowhere/at/all", "data.tokenizer 'nowhere/at/all' is no folder: give one, or a Hub id"),
        ("no/model", "data.tokenizer 'no/model' is no folder and in no mirror, and the Hub does not give it"),
    ],
)
def test_tokenizer_that_is_not_there_is_explained(
    tokenizer: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/tokenizer.json").write_text("{}")
    with pytest.raises(UserError) as refused:
        _ = DemoTexts(tokenizer=tokenizer).tokenizer
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("text", ["{}", "", "[" * 1000, "\0", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_tokenizer_of_a_checkpoint_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^what the checkpoint holds is not a tokenizer: "):
        DemoTexts().take_tokenizer(text)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "DemoTexts": {"tokenizer": text}}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"^the tokenizer beside the starting weights is none: "):
        read_source(str(tmp_path / "weights.pt"))


def crafted(**parts: Any) -> str:
    """A small tokenizer by pairs of letters, of which some parts are another's."""
    learned = train_tokenizer(["a text of words", "another text"], "byte_level_bpe", 270)
    content = json.loads(learned.to_str())
    content["model"] |= parts.pop("model", {})
    return json.dumps({**content, **parts})


def replacement(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """A rule of the normalisation."""
    return {"type": "Replace", "pattern": pattern, "content": content}


# Each of these panics in the Rust library, or takes all memory and ends the process.
CRAFTED = {
    "prefix longer than the merged tokens": {"model": {"continuing_subword_prefix": "#" * 9}},
    "prefix that ends within a letter": {
        "model": {"vocab": {"a": 0, "é": 1, "aé": 2}, "merges": [["a", "é"]], "continuing_subword_prefix": "#"}
    },
    "id beyond any memory": {"model": {"vocab": {"a": 0, "b": 2**32 - 1}, "merges": []}},
    "added id beyond any memory": {"added_tokens": [{"id": 2**31, "content": "x", "special": True}]},
    "special token that is not there": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "normalizer that cannot be parsed": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "letters that become ten, twelve times": {
        "normalizer": {"type": "Sequence", "normalizers": [replacement({"String": "a"}, "a" * 10)] * 12}
    },
    "a word between any two letters, again and again": {
        "normalizer": {"type": "Sequence", "normalizers": [replacement({"Regex": "x*"}, "word")] * 12}
    },
    "a book before each text": {"normalizer": {"type": "Prepend", "prepend": "word " * 10**6}},
    "a book for a letter": {
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(b"\4\0\0\0" + b"\0" * 4 + b"word" * 10**5 + b"\0").decode(),
        }
    },
    "each text ten thousand times": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 10_000,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {},
        }
    },
}


@pytest.mark.parametrize("parts", CRAFTED.values(), ids=CRAFTED)
def test_crafted_tokenizer_is_refused_in_one_line(parts: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^what the checkpoint holds (is not a tokenizer: |has a token |makes )"):
        DemoTexts().take_tokenizer(crafted(**parts))


def test_rules_that_pretrained_models_have_are_no_growth_beyond_memory() -> None:
    quotes = [replacement({"String": "``"}, '"'), replacement({"String": "''"}, '"')]  # as ALBERT and XLNet
    spaces = [replacement({"Regex": " {2,}"}, " "), replacement({"String": " "}, "▁")]  # as T5 and Gemma
    rules = [*quotes, *spaces, {"type": "NFKD"}, {"type": "Prepend", "prepend": "▁"}]
    tokenizer = tokenizer_of(crafted(normalizer={"type": "Sequence", "normalizers": rules}), "it")
    assert tokenizer.normalizer.normalize_str("a  ``b''") == '▁a▁"b"'


def test_tokenizer_that_fails_on_a_text_is_one_line() -> None:
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = tokenizer_of(crafted(pre_tokenizer=endless), "it")
    with pytest.raises(UserError, match=r"^the tokenizer of the data cannot read a text: .*retry-limit"):
        tokenize(tokenizer, ["a" * 60 + "b"])


def test_tokenizer_that_does_not_know_a_letter_is_read() -> None:
    bases = Tokenizer(models.BPE({"C": 0, "G": 1, "T": 2}, []))  # without A, and without an unknown token
    bases.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 3)])
    bases.add_special_tokens(["[CLS]"])
    found = special_tokens(tokenizer_of(bases.to_str(), "bases"))
    assert found.before == [3]
    assert found.unknown == 0


def test_learned_tokenizers_have_the_special_tokens_of_this_project() -> None:
    for kind in ("words", "byte_level_bpe"):
        tokens = special_tokens(DemoTexts(tokenizer=kind, max_vocabulary_size=300).tokenizer)
        assert tokens == (0, 1, [], [], 0, None)


def test_token_ids_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = word_pieces(tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    data = DemoTexts(tokenizer=str(folder))
    split = data.read_split("train")
    texts = data.open_split("train")["text"][:20]
    expected = theirs(list(texts), padding=True, return_tensors="pt")
    batch = data.batch_maker(split)(np.arange(20))
    assert torch.equal(batch.token_ids, expected["input_ids"])
    assert torch.equal(batch.lengths, expected["attention_mask"].sum(1))
