"""Reads the tokenizers of pretrained models, and says what each of their special tokens is for.

A pretrained tokenizer is one JSON string, like those that this project learns. It holds the id of its padding too.
"""

import base64
import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

from lightning_transfer.errors import UserError, in_one_line
from lightning_transfer.files import model_folder

LARGEST_VOCABULARY = 10_000_000  # entries: the library takes their memory at once, and would end the process
LARGEST_GROWTH = 1000  # times as long as a text may become by the rules, so that texts fit in the memory
_FILE = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # name the special tokens by what they are for


class SpecialTokens(NamedTuple):
    """Holds the ids with which a vocabulary marks what is not text.

    Attributes:
        padding: Fills up a batch, and is in no text.
        unknown: Stands for a text without any token.
        before: Those before each document.
        after: Those after each document.
        separator: Sets texts apart: the last of ``after``, or the padding's.
        mask: Stands for a token that is to be guessed; None where there is none.
    """

    padding: int
    unknown: int
    before: list[int]
    after: list[int]
    separator: int
    mask: int | None = None

    @property
    def marks(self) -> list[int]:
        """Those that are in no text: what marks documents, sets texts apart and fills up."""
        return [self.padding, self.separator, *self.before, *self.after]


def read_pretrained_tokenizer(name: str, kinds: tuple[str, ...]) -> str:
    """Reads the tokenizer of a pretrained model.

    Args:
        name: A Hub id, the folder of a model, or a tokenizer.json.
        kinds: The other values that the option takes, for the error.

    Returns:
        The tokenizer as JSON. It does not cut texts, and its padding is that of the model.

    Raises:
        UserError: If there is no such tokenizer, or it cannot be read.
    """
    if Path(name).is_file():
        file = Path(name)
    elif "/" not in name and not Path(name).is_dir():
        raise UserError(
            f"data.tokenizer is {name}: expected {', '.join(kinds)}, a Hub id as owner/name, a folder or a {_FILE}"
        )
    else:
        file = model_folder(name, [_FILE, *_SETTINGS], "data.tokenizer") / _FILE
    if not file.exists():
        raise UserError(f"data.tokenizer {name} has no {_FILE}: save one by save_pretrained of transformers' tokenizer")
    tokenizer = tokenizer_of(file.read_bytes().decode(errors="replace"), str(file))
    tokenizer.no_truncation()
    padding = _padding(tokenizer, [_settings(file.with_name(setting)) for setting in _SETTINGS])
    tokenizer.no_padding()  # to a fixed length, for instance
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    text: str = tokenizer.to_str()
    return text


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Finds what a tokenizer uses to mark padding, documents, and what it does not know.

    Args:
        tokenizer: One that this project has learned, whose padding is 0, or one of a pretrained model.
    """
    padding = (tokenizer.padding or {}).get("pad_id", 0)
    plain = without_padding(tokenizer)
    encoded, text = _of_some_text(plain)
    before, after = encoded.ids[: text[0]], encoded.ids[text[-1] + 1 :]
    unknown = _named(tokenizer, getattr(tokenizer.model, "unk_token", None), "<unk>", "[UNK]")
    separator = after[-1] if after else padding
    mask = _named(tokenizer, "[MASK]", "<mask>")
    if unknown is None:  # where every text has tokens but the empty one
        unknown = [*plain.encode(" ", add_special_tokens=False).ids, encoded.ids[text[0]]][0]
    return SpecialTokens(padding, unknown, before, after, separator, mask)


def _of_some_text(tokenizer: Tokenizer) -> tuple[Encoding, list[int]]:
    """Encodes a text that has tokens, and gives the places of these. Not every tokenizer knows each letter."""
    known = tokenizer.get_vocab(with_added_tokens=False)
    for written in ["a", *sorted(known, key=known.__getitem__)]:
        encoded = tokenizer.encode(written)
        if text := [place for place, is_special in enumerate(encoded.special_tokens_mask) if not is_special]:
            return encoded, text
    raise UserError("the tokenizer makes no tokens of any text: expected one of a pretrained model")


def tokenizer_of(text: str, source: str) -> Tokenizer:
    """Reads the rules of a tokenizer, as data.

    Args:
        text: The content of a ``tokenizer.json``.
        source: What the error calls it.

    Raises:
        UserError: If it is something else, or cannot encode a text.
    """
    with failures_of_library(f"{source} is not a tokenizer"):
        content = json.loads(text)
        if (largest := _largest_id(content)) > LARGEST_VOCABULARY:
            raise UserError(f"{source} has a token with the id {largest}: expected at most {LARGEST_VOCABULARY:,}")
        if (merge := _merge_without_prefix(content["model"])) is not None:  # it would abort the process
            raise UserError(f"{source} is not a tokenizer: it merges {merge}, and the second has no prefix")
        if (growth := _growth(content.get("normalizer"))) > LARGEST_GROWTH:
            raise UserError(f"{source} makes texts {growth:.3g} times as long at most: expected {LARGEST_GROWTH:,}")
        tokenizer = Tokenizer.from_str(text)
        if (added := len(tokenizer.encode("a").ids)) > LARGEST_GROWTH:
            raise UserError(f"{source} makes {added:,} tokens of one letter: expected at most {LARGEST_GROWTH:,}")
        special_tokens(tokenizer)
    return tokenizer


@contextlib.contextmanager
def failures_of_library(what: str) -> Iterator[None]:
    """Words in one line why the library fails in a block.

    Args:
        what: What the line says first.

    Raises:
        UserError: If the library raises an exception, or one of its own code's panics.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic is no Exception
        raise UserError(f"{what}: {in_one_line(error)}") from error


def _largest_id(content: Any) -> int:
    vocabulary = content["model"]["vocab"]  # by token, or a list in the order of the ids
    ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary)]
    return max([*ids, *(added["id"] for added in content.get("added_tokens") or [])], default=0)


def _growth(rule: Any) -> float:
    """Bounds how many times as long, in bytes, a rule of the normalisation may make a text of at least a letter."""
    if not isinstance(rule, Mapping):
        return 1
    if rule.get("type") == "Sequence":
        return math.prod((_growth(one) for one in rule["normalizers"]), start=1.0)
    if rule.get("type") == "Prepend":
        return 1 + len(rule["prepend"].encode())
    if rule.get("type") == "Replace":
        put, found = len(rule["content"].encode()), len(rule["pattern"].get("String", "").encode())
        # A regular expression, as an empty text, may be found in front of each letter.
        return max(1, math.ceil(put / found)) if found else 1 + put
    if rule.get("type") == "Precompiled":  # the length of a table, the table, and the texts that it puts in
        table = base64.b64decode(rule["precompiled_charsmap"])
        return max(1, *map(len, table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")))
    return 1


def _merge_without_prefix(model: Mapping[str, Any]) -> Any:
    """Finds a merge whose second token lacks the prefix that the library cuts off, maybe within a letter."""
    prefix = model.get("continuing_subword_prefix") or ""
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    return next((merge for merge in merges if not merge[1].startswith(prefix)), None)


def without_padding(tokenizer: Tokenizer) -> Tokenizer:
    """Copies a tokenizer that encodes each text at its own length."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    return plain


def _padding(tokenizer: Tokenizer, settings: list[Mapping[str, Any]]) -> int:
    """Finds the padding's id. For a model without one, as GPT-2, the token that ends a text or another special one."""
    named = [_content(setting.get(key)) for key in ("pad_token", "eos_token") for setting in settings]
    own = (tokenizer.padding or {}).get("pad_token")
    found = _named(tokenizer, own, *named[:2], "[PAD]", "<pad>", *named[2:])
    if found is None:
        found = min(
            (place for place, token in tokenizer.get_added_tokens_decoder().items() if token.special), default=0
        )
    return found


def _named(tokenizer: Tokenizer, *tokens: str | None) -> int | None:
    ids = (tokenizer.token_to_id(token) for token in tokens if token)
    return next((found for found in ids if found is not None), None)


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a model may lack either file
        return {}
    return content if isinstance(content, Mapping) else {}


def _content(token: object) -> str | None:
    """Returns the text of a token, which stands alone or as one entry of several."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None
