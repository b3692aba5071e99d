"""Turns texts into token ids by words or byte-level BPE, learned from training texts with the library ``tokenizers``.

A tokenizer is one JSON string. The cache finds it by the texts and settings that it was learned from. It is in every
checkpoint, and in the folder of each run as ``tokenizer.json``.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from lightning_transfer.data import cache
from lightning_transfer.data.pretrained_tokenizer import failures_of_library, special_tokens, without_padding

TokenizerKind = Literal["words", "byte_level_bpe"]

PADDING, UNKNOWN = "<pad>", "<unk>"
PADDING_ID, UNKNOWN_ID = 0, 1
# Stands between the documents of a stream and the texts of a document, as it is in every vocabulary and in no text.
SEPARATOR_ID = PADDING_ID
SEPARATOR = "<sep>"  # what people are shown of it

_LAYOUT = 3  # version of the cached arrays and of the rules below: another number builds the arrays again
_CHUNK = 1000  # documents tokenised at a time: enough to use all cores, few enough for a moving progress bar
# Scripts that put no space between words. A whole sentence would be one word, which no other text has.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED_NAMES = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# The pattern of a token: a character of these scripts with its marks, a word with its apostrophe, so that "don't" keeps
# its negation, or else a single sign.
_WORD = (
    rf"[{_UNSPACED}]\p{{M}}*|[\p{{L}}\p{{M}}\p{{N}}&&[^{_UNSPACED}]]+(?:'[\p{{L}}&&[^{_UNSPACED}]]+)?"
    r"|[^\s\p{L}\p{M}\p{N}]"
)


class Documents(NamedTuple):
    """Token ids of many documents, one after the other.

    Attributes:
        token_ids: int32 [tokens].
        offsets: int64 [documents + 1]: document i is ``token_ids[offsets[i]:offsets[i + 1]]``, which is never empty.
    """

    token_ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each document, int64 [documents]."""
        return np.diff(self.offsets)


def train_tokenizer(texts: Iterable[str], kind: TokenizerKind, max_vocabulary_size: int) -> Tokenizer:
    """Learns a vocabulary.

    Args:
        texts: The training texts only.
        kind: ``words`` takes the most frequent lower-cased words and single punctuation marks; all others are unknown.
            Scripts without spaces between words, such as Chinese, Japanese and Thai, give a token for each character.
            ``byte_level_bpe`` merges bytes (Sennrich et al., 2016; Radford et al., 2019), so no text is unknown.
        max_vocabulary_size: Maximum number of entries, with padding and the unknown word.
    """
    line_breaks = normalizers.Replace(Regex(r"<br\s*/?>"), " ")  # texts from the web have these
    clean = [normalizers.NFC(), line_breaks, normalizers.Strip()]
    special = [PADDING, UNKNOWN]
    trainer: trainers.Trainer
    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(vocab={}, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([*clean, normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
        trainer = trainers.WordLevelTrainer(vocab_size=max_vocabulary_size, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence(clean)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=max_vocabulary_size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    tokenizer.train_from_iterator(map(printable, texts), trainer)
    return tokenizer


def cached_tokenizer(texts: Iterable[str], fingerprint: str, kind: TokenizerKind, max_vocabulary_size: int) -> str:
    """Learns a vocabulary once and caches it; see :func:`train_tokenizer`.

    Args:
        texts: The training texts.
        fingerprint: Text that changes when the training texts do.
        kind: The kind of tokens.
        max_vocabulary_size: Maximum number of entries.

    Returns:
        The tokenizer as JSON.
    """
    key = {"fingerprint": fingerprint, "kind": kind, "max_vocabulary_size": max_vocabulary_size, "layout": _LAYOUT}

    def build(folder: Path) -> None:
        text = train_tokenizer(texts, kind, max_vocabulary_size).to_str()
        cache.save(folder / "json.npy", np.frombuffer(text.encode(), np.uint8))

    return cache.load_or_build("tokenizers", key, build)["json"].tobytes().decode()


def tokenize(tokenizer: Tokenizer, texts: Iterable[str], total: int | None = None) -> Documents:
    """Turns texts into token ids, on all cores.

    A text without any token, an empty one for instance, becomes one unknown token.

    Args:
        tokenizer: A tokenizer from :func:`train_tokenizer`, or of a pretrained model, whose special tokens are not
            added.
        texts: Any strings. Lone surrogates, which stand for bytes that were not UTF-8, are replaced.
        total: Number of texts, for the progress bar; without it there is no bar.
    """
    unknown, tokenizer = special_tokens(tokenizer).unknown, without_padding(tokenizer)
    tokenizer.encode_special_tokens = True  # so that "<pad>" in a text is split like any other characters
    ids, lengths = [np.empty(0, np.int32)], [0]
    # With disable=None, tqdm shows no bar if standard error is not a terminal.
    with tqdm(desc="Tokenising once", total=total, unit=" texts", disable=True if total is None else None) as bar:
        for chunk in _chunks(texts):
            with failures_of_library("the tokenizer of the data cannot read a text"):
                encoded = [e.ids or [unknown] for e in tokenizer.encode_batch_fast(chunk, add_special_tokens=False)]
            ids.append(np.fromiter((token for document in encoded for token in document), np.int32))
            lengths += map(len, encoded)
            bar.update(len(chunk))
    return Documents(np.concatenate(ids), np.cumsum(lengths))


def cached_documents(tokenizer: Tokenizer, columns: Sequence[Iterable[str]], fingerprint: str, total: int) -> Documents:
    """Turns texts into token ids once; later calls map the cached arrays into memory.

    Args:
        tokenizer: A tokenizer from :func:`train_tokenizer`.
        columns: The texts of each column. Those of several are joined by the separator, row by row.
        fingerprint: Text that changes when the texts or their columns do.
        total: Number of rows.
    """
    key = {"fingerprint": fingerprint, "tokenizer": tokenizer.to_str(), "layout": _LAYOUT}

    def build(folder: Path) -> None:
        padding = special_tokens(tokenizer).padding
        documents = join([tokenize(tokenizer, texts, total) for texts in columns], padding)
        for name, array in documents._asdict().items():
            cache.save(folder / f"{name}.npy", array)

    return Documents(**cache.load_or_build("texts", key, build))


def join(columns: Sequence[Documents], separator: int = SEPARATOR_ID) -> Documents:
    """Joins the texts of several columns, row by row, with a token between them that is in no text."""
    if len(columns) == 1:
        return columns[0]
    offsets = np.zeros_like(columns[0].offsets)
    offsets[1:] = np.cumsum(sum(column.lengths for column in columns) + len(columns) - 1)
    token_ids = np.full(offsets[-1], separator, np.int32)
    starts = offsets[:-1].copy()
    for column in columns:
        places = np.repeat(starts - column.offsets[:-1], column.lengths)
        token_ids[places + np.arange(len(places))] = column.token_ids
        starts += column.lengths + 1
    return Documents(token_ids, offsets)


def unseen_share(train: Documents, rows: np.ndarray, other: Documents, other_rows: np.ndarray) -> float:
    """Returns the share of tokens in some documents that are unknown, or in none of the training documents.

    Args:
        train: Documents.
        rows: int64, those to train on.
        other: Documents.
        other_rows: int64, those whose tokens are counted.
    """
    found = _tokens_of(other, other_rows)
    return float(((found == UNKNOWN_ID) | ~np.isin(found, _tokens_of(train, rows))).mean())


def _tokens_of(documents: Documents, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([documents.token_ids[documents.offsets[row] : documents.offsets[row + 1]] for row in rows])


def is_unspaced(token: str) -> bool:
    """Says whether a token is a character of a script that puts no space between words."""
    return unicodedata.name(token[0], "").startswith(_UNSPACED_NAMES)


def readable(tokenizer: Tokenizer, token_id: int) -> str:
    """Returns one token as text; for bytes that are no whole character, it returns the replacement character."""
    token: str = tokenizer.id_to_token(token_id) or UNKNOWN
    if token_id == SEPARATOR_ID and token == PADDING:
        return SEPARATOR
    return decoders.ByteLevel().decode([token]).strip() or token if isinstance(tokenizer.model, models.BPE) else token


def printable(text: str | None) -> str:
    """Replaces invalid Unicode, which the tokenizer would refuse, and makes a missing text empty."""
    return (text or "").encode("utf-8", "replace").decode()


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(printable(text))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
