"""Joins the pieces of words that a tokenizer has cut, by the marks that its vocabulary has for where words begin."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders

from lightning_transfer.data.pretrained_tokenizer import special_tokens
from lightning_transfer.data.tokenizer import readable

_BYTE_BLANK, _BLANK = "Ġ", "▁"


class Words(NamedTuple):
    """The words of a document.

    Attributes:
        numbers: For each token the number of its word, None for a token that marks documents.
        texts: The words.
    """

    numbers: list[int | None]
    texts: list[str]


class PieceJoiner:
    """Joins the pieces of words.

    Pieces of WordPiece, byte-level BPE, SentencePiece and BPE with ends of words are joined as blanks stood in the
    text, so that signs stay with the word before them; those of WordPiece stand alone. In any other vocabulary each
    token is a word.

    Args:
        tokenizer: One that this project has learned, or one of a pretrained model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = special_tokens(tokenizer)
        self._tokenizer = tokenizer
        self._marks = {*special.marks}
        self._begins, self._text_of = _rules(tokenizer)

    def __call__(self, token_ids: Sequence[int]) -> Words:
        """Joins the tokens of one document, without padding behind them."""
        numbers: list[int | None] = []
        pieces: list[list[int]] = []
        before: str | None = None  # the token before, if it is of a word
        for token_id in token_ids:
            if token_id in self._marks:
                numbers.append(None)
                before = None
                continue
            token = self._tokenizer.id_to_token(token_id) or ""
            if before is None or self._begins(token, before):
                pieces.append([])
            pieces[-1].append(token_id)
            numbers.append(len(pieces) - 1)
            before = token
        return Words(numbers, [self._text_of(word) for word in pieces])


def _rules(tokenizer: Tokenizer) -> tuple[Callable[[str, str], bool], Callable[[Sequence[int]], str]]:
    """Gives what says whether a token begins a word, given the one before it, and what writes a word."""
    kind: dict[str, Any] = json.loads(tokenizer.to_str())
    model = kind["model"]

    def joined(word: Sequence[int]) -> str:
        return "".join(tokenizer.id_to_token(token) or "" for token in word)

    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        tokens = tokenizer.id_to_token
        return (lambda token, _: not token.startswith(prefix)), lambda word: "".join(
            (tokens(token) or "").removeprefix(prefix) for token in word
        )
    parts = json.dumps([kind.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)
    if '"ByteLevel"' in parts:
        return (lambda token, _: token[:1] in (_BYTE_BLANK, "Ċ")), lambda word: _of_bytes(joined(word))
    if _BLANK in parts:
        return (lambda token, _: token.startswith(_BLANK)), lambda word: joined(word).replace(_BLANK, " ").strip()
    if model.get("end_of_word_suffix"):
        end = model["end_of_word_suffix"]
        return (lambda _, before: before.endswith(end)), lambda word: joined(word).replace(end, "")
    return (lambda token, before: True), lambda word: " ".join(readable(tokenizer, token) for token in word)


def _of_bytes(token: str) -> str:
    text: str = decoders.ByteLevel().decode([token])
    return text.strip() or token
