"""Gives a data module its vocabulary: learned from its training texts, or taken from a run or a checkpoint."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast, get_args

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tokenizers import Tokenizer, models

from lightning_transfer.data.pretrained_tokenizer import (
    LARGEST_VOCABULARY,
    SpecialTokens,
    read_pretrained_tokenizer,
    special_tokens,
    tokenizer_of,
)
from lightning_transfer.data.splits import evenly_spaced
from lightning_transfer.data.tokenizer import (
    Documents,
    TokenizerKind,
    cached_tokenizer,
    is_unspaced,
    readable,
    unseen_share,
)
from lightning_transfer.errors import UserError
from lightning_transfer.files import write_text

_SAMPLE = 20_000  # documents of either kind whose tokens are compared
_MANY_UNSEEN = 0.25


class TokenizedTexts:
    """Adds a tokenizer and its vocabulary to a data module of texts, as a second base class.

    Args:
        tokenizer: The kind of tokens: ``words`` (lower-cased words, punctuation marks, and single characters of scripts
            without spaces, such as Chinese and Thai) or ``byte_level_bpe``. Or the tokenizer of a pretrained model: its
            Hub id, its folder or its tokenizer.json.
        max_vocabulary_size: Maximum number of entries of a vocabulary that is learned, with padding and the unknown
            word.
        vocabulary_path: The ``tokenizer.json`` of another run, whose vocabulary to use instead of learning one. A
            network that starts from that run's weights needs it.

    Raises:
        UserError: For a vocabulary that is too small or too large, and a tokenizer that is not there.
    """

    def __init__(
        self,
        tokenizer: str = "words",
        max_vocabulary_size: int = 25_000,
        vocabulary_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        smallest = {"words": 3, "byte_level_bpe": 258}.get(tokenizer, 0)  # special tokens, and one word or all bytes
        if max_vocabulary_size < smallest:
            raise UserError(f"data.max_vocabulary_size is {max_vocabulary_size}: expected {smallest} or more")
        if max_vocabulary_size > LARGEST_VOCABULARY:
            raise UserError(
                f"data.max_vocabulary_size is {max_vocabulary_size}: expected at most {LARGEST_VOCABULARY:,}"
            )
        self.tokenizer_kind = tokenizer
        self.max_vocabulary_size = max_vocabulary_size
        self.vocabulary_path = vocabulary_path
        self._tokenizer: Tokenizer | None = None
        self._special_tokens: tuple[Tokenizer, SpecialTokens] | None = None

    @abstractmethod
    def training_texts(self) -> tuple[list[Collection[str]], str]:
        """Returns the texts to learn the vocabulary from, by columns, and a fingerprint of them."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a checkpoint, of ``vocabulary_path`` or a model, or one learned from the training texts."""
        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(self._read_or_learn_tokenizer(), "the tokenizer of the data")
        return self._tokenizer

    @property
    def special_tokens(self) -> SpecialTokens:
        """The ids that mark documents and padding."""
        if self._special_tokens is None or self._special_tokens[0] is not self.tokenizer:
            self._special_tokens = self.tokenizer, special_tokens(self.tokenizer)
        return self._special_tokens[1]

    @property
    def vocabulary(self) -> list[str]:
        """The tokens in the order of their ids."""
        ids = self.tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids."""
        return max(self.tokenizer.get_vocab().values()) + 1  # a pretrained vocabulary may leave ids out

    def read_tokens(self, token_ids: Sequence[int]) -> list[str]:
        """Returns a readable piece of text for each token id."""
        return [readable(self.tokenizer, token) for token in token_ids]

    def take_tokenizer(self, text: str) -> bool:
        """Uses the tokenizer of a checkpoint from now on, and says whether it differs from the one before."""
        if self._tokenizer is not None and self._tokenizer.to_str() == text:
            return False
        self._tokenizer = tokenizer_of(text, "what the checkpoint holds")
        return True

    def write_tokenizer(self, trainer: L.Trainer | None) -> None:
        """Writes ``tokenizer.json`` into the run's folder, if it has one."""
        # The command line's run or a logger gives the folder, on which all ranks agree.
        has_folder = trainer is not None and (trainer.loggers or getattr(trainer, "run_folder", None))
        folder = trainer.log_dir if trainer is not None and has_folder else None
        if trainer is not None and folder and trainer.is_global_zero:
            write_text(Path(folder, "tokenizer.json"), self.tokenizer.to_str())

    def announce_tokens(self, train: Documents, rows: np.ndarray, validation: Documents, held_out: np.ndarray) -> None:
        """Says how texts become tokens, and warns where the training documents have few of those of the validation.

        Args:
            train: Documents.
            rows: int64, those to train on.
            validation: Documents.
            held_out: int64, those of them to validate on.
        """
        if self.tokenizer_kind not in get_args(TokenizerKind):  # whose embeddings have seen other texts
            return rank_zero_info(f"texts are read as {self.vocabulary_size:,} tokens of {self.tokenizer_kind}")
        has_pieces = isinstance(self.tokenizer.model, models.BPE)
        words = f"texts are read as {self.vocabulary_size:,} {'pieces of bytes' if has_pieces else 'words and signs'}"
        characters = sum(map(is_unspaced, self.vocabulary))
        if characters and not has_pieces:
            words += f", {characters:,} of them single characters of scripts without spaces"
        if not len(held_out):
            return rank_zero_info(words)
        rows, held_out = (chosen[evenly_spaced(len(chosen), _SAMPLE)] for chosen in (rows, held_out))
        share = unseen_share(train, rows, validation, held_out)
        in_words = f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"
        rank_zero_info(f"{words}; {in_words} % of the validation tokens are in no training text")
        if share > _MANY_UNSEEN and self.vocabulary_path is None:  # a given one may be of other texts
            advice = "" if has_pieces else "set data.tokenizer byte_level_bpe, which spells any text, or "
            rank_zero_warn(
                f"{100 * share:.0f} % of the validation tokens are in no training text: expected few;"
                f" {advice}train on more texts"
            )
        return None

    def _read_or_learn_tokenizer(self) -> str:
        kinds: tuple[TokenizerKind, ...] = get_args(TokenizerKind)
        if self.vocabulary_path is None and self.tokenizer_kind not in kinds:
            return read_pretrained_tokenizer(self.tokenizer_kind, kinds)
        if self.vocabulary_path is None:
            columns, fingerprint = self.training_texts()
            texts = chain.from_iterable(columns)
            return cached_tokenizer(
                texts, fingerprint, cast(TokenizerKind, self.tokenizer_kind), self.max_vocabulary_size
            )
        try:
            text = Path(self.vocabulary_path).read_text(encoding="utf-8")
            tokenizer_of(text, "it")
        except (OSError, ValueError) as error:
            raise UserError(
                f"data.vocabulary_path {self.vocabulary_path!r} is not the tokenizer.json of a run: {error}"
            ) from error
        return text


def share_vocabulary(data: Sequence[TokenizedTexts]) -> None:
    """Has several data modules read their texts as the same tokens, for one network.

    A vocabulary that is to be learned is learned from the training texts of all of them.

    Raises:
        UserError: If they are to have different tokenizers.
    """
    first = data[0]
    for name in ("tokenizer_kind", "max_vocabulary_size", "vocabulary_path"):
        given = {str(getattr(one, name)) for one in data}
        if len(given) > 1:
            option = name.removesuffix("_kind")
            raise UserError(
                f"{option} of data.tasks is {' and '.join(sorted(given))}: expected the same, as one network reads all"
                " texts"
            )
    if first._tokenizer is None and first.vocabulary_path is None and first.tokenizer_kind in get_args(TokenizerKind):
        found = {fingerprint: columns for columns, fingerprint in (one.training_texts() for one in data)}
        texts = chain.from_iterable(chain.from_iterable(found.values()))
        kind = cast(TokenizerKind, first.tokenizer_kind)
        tokenizer = cached_tokenizer(texts, "+".join(found), kind, first.max_vocabulary_size)
    else:
        tokenizer = first.tokenizer.to_str()
    for one in data:
        one.take_tokenizer(tokenizer)
