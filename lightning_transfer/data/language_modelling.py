"""Reads texts for language models, and serves them as parallel streams in segments."""

from collections.abc import Collection, Iterable
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Literal

import datasets
import numpy as np

from lightning_transfer.data import demo_texts, hub
from lightning_transfer.data.classification import require_at_least
from lightning_transfer.data.hold_outs import TestHoldOut, find_own_validation
from lightning_transfer.data.keyword_arguments import StreamOptions, TokenizerOptions
from lightning_transfer.data.loader import Batches, BatchLoader, EpochBatches, training_loader
from lightning_transfer.data.masking import mask_tokens
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.tables import columns_of_texts
from lightning_transfer.data.seeding import SeededDataModule
from lightning_transfer.data.token_streams import longest_segment, make_batch, segment_ends, stream_of
from lightning_transfer.data.tokenizer import Documents, cached_documents
from lightning_transfer.data.vocabulary import TokenizedTexts
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords


class LanguageModelDataModule(TokenizedTexts, SeededDataModule):
    """Makes streams of text from any data set with a text column; labels are not read.

    The documents of all training splits form one stream, in a new random order each epoch. It is cut into
    ``batch_size`` parallel streams, and each batch is the next segment of every stream. Some documents are held out
    for validation, unless the data has a split for it. Every checkpoint has the place in the streams.

    Args:
        path: A Hub id or a folder. Hub ids are looked up in the folders that LIGHTNING_TRANSFER_MIRROR names, if any.
        text_column: The column of the texts, or several, as [title, body]. The texts of a row are then one document,
            with a separator between them.
        train_splits: The splits to train and validate on, and to learn the vocabulary from. Never name the split that
            a classifier is to be tested on.
        validation_split: The split to validate on; nothing is then held out. If null, the one called validation, valid,
            val, dev or validate, if any. With the name of a training split, documents are held out of these.
        test_fraction: What a classifier of the same data holds out of the split ``train`` by this option for its test.
            These documents are not read. ``test_seed``, ``label_column`` and ``group_column`` must be the same too.
        test_seed: Seed of that test.
        label_column: Column of the classes by which that test is held out.
        group_column: Column of the groups that it keeps together.
        direction: ``backward`` reads the streams from their end.
        batch_size: Number of parallel streams, over all devices together.
        segment_tokens: Time steps of a segment, which is also how far gradients go back.
        varied_segments: Whether to halve some segments and vary all lengths a little (Merity et al., 2018). Then
            segments do not always begin at the same tokens. Every epoch has the same lengths.
        masked_fraction: Share of the tokens that are to be guessed from both sides, for masked language models such as
            BERT (0.15 there). With 0 each next token is to be predicted.
        validation_fraction: Share of the documents that is held out for validation.
        split_seed: Seed of the hold-out.
        reader: How CSV files and their like are written, where it cannot be seen.

    Raises:
        UserError: For values out of range, and data that is missing, not as described, or too short.
    """

    def __init__(
        self,
        path: str,
        text_column: str | list[str] = "text",
        train_splits: tuple[str, ...] = ("train",),
        validation_split: str | None = None,
        test_fraction: float = 0.0,
        test_seed: int = 0,
        label_column: str | None = "label",
        group_column: str | None = None,
        direction: Literal["forward", "backward"] = "forward",
        batch_size: int = 64,
        segment_tokens: int = 70,
        varied_segments: bool = True,
        masked_fraction: float = 0.0,
        validation_fraction: float = 0.01,
        split_seed: int = 0,
        reader: ReaderOptions | None = None,
        **kwargs: Keywords[TokenizerOptions],
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, batch_size=batch_size, segment_tokens=segment_tokens, train_splits=len(train_splits))
        require_at_least(0, split_seed=split_seed, test_seed=test_seed)
        if not 0 < validation_fraction < 1:
            raise UserError(f"data.validation_fraction is {validation_fraction}: expected above 0 and below 1")
        self.path = path
        self.text_columns = [text_column] if isinstance(text_column, str) else list(text_column)
        self.train_splits = train_splits
        self.validation_split = validation_split
        self.test_hold_out = TestHoldOut(test_fraction, test_seed, "train", "test", label_column, group_column)
        self.direction = direction
        self.batch_size = batch_size
        self.segment_tokens = segment_tokens
        self.varied_segments = varied_segments
        if not 0 <= masked_fraction < 1:
            raise UserError(f"data.masked_fraction is {masked_fraction}: expected at least 0 and below 1")
        self.masked_fraction = masked_fraction
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.reader = reader
        self._documents: Documents | None = None
        self._train_documents = 0  # the documents of a validation split follow them
        self._fingerprint = ""
        self._train_loader: BatchLoader | None = None
        self._resume_at: dict[str, int] = {}

    def open_split(self, split: str) -> datasets.Dataset:
        """Opens a split without what is held out of it for a test, and checks that it has texts."""
        hold_out = self.test_hold_out
        columns = {"label_column": hold_out.label_column, "group_column": hold_out.group_column}
        named: dict[str, Any] = {name: column for name, column in columns.items() if column and hold_out.fraction}
        named |= {"text_column": self.text_columns, "texts": self.text_columns, "reader": self.reader}
        return hold_out.open(split, lambda name: hub.load_split(self.path, name, **named), self.split_names)

    def split_names(self) -> list[str]:
        """Gives the names of the data's splits."""
        return hub.split_names(self.path)

    @cached_property
    def own_validation(self) -> str | None:
        """The split that the data has for validation; None where documents are held out."""
        return find_own_validation(self.path, self.validation_split, self.train_splits, "test", self.split_names())

    def training_texts(self) -> tuple[list[Collection[str]], str]:
        """Returns the texts of all training splits by columns, and a fingerprint of them."""
        splits = [self.open_split(split).select_columns(self.text_columns) for split in self.train_splits]
        fingerprints = [columns_of_texts(split, self.text_columns)[1] for split in splits]
        return columns_of_texts(datasets.concatenate_datasets(splits), self.text_columns)[0], "+".join(fingerprints)

    @property
    def documents(self) -> Documents:
        """The token ids of all documents, which come from the cache after the first time."""
        if self._documents is None:
            columns, self._fingerprint = self.training_texts()
            self._train_documents = total = len(columns[0])
            texts: list[Iterable[str]] = [*columns]
            if self.own_validation is not None:
                more, fingerprint = columns_of_texts(self.open_split(self.own_validation), self.text_columns)
                self._fingerprint += f"+{fingerprint}"
                texts = [chain(*pair) for pair in zip(columns, more, strict=True)]
                total += len(more[0])
            self._documents = cached_documents(self.tokenizer, texts, self._fingerprint, total)
        return self._documents

    @property
    def facts(self) -> dict[str, Any]:
        """The facts on the data that are written into the record of a run."""
        train, validation = self._divide()
        lengths = self.documents.lengths
        return {
            "fingerprints": {"+".join([*self.train_splits, *filter(None, [self.own_validation])]): self._fingerprint},
            "train_documents": len(train),
            "train_tokens": int(lengths[train].sum()),
            "validation_tokens": int(lengths[validation].sum()),
        }

    def prepare_data(self) -> None:
        """Fills the cache, once on each node."""
        _ = self.documents

    @property
    def longest_document(self) -> int:
        """Tokens of the longest segment, which a network reads at once."""
        return longest_segment(self.segment_tokens) if self.varied_segments else self.segment_tokens

    def setup(self, stage: str) -> None:
        """Writes the tokenizer into the run's folder."""
        super().setup(stage)
        if stage == "fit":
            self.write_tokenizer(self.trainer)
            train, validation = self._divide()
            self.announce_tokens(self.documents, train, self.documents, validation)

    def train_dataloader(self) -> BatchLoader:
        """Makes the loader of the training segments, whose documents have a new order each epoch."""
        rows, _ = self._divide()
        segments = self._segments(rows, self.varied_segments, self.run_seed)
        self._train_loader = training_loader(make_batch, segments, self.trainer, self._resume_at)
        self._resume_at = {}
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Makes the loader of the hold-out's segments, which are always the same."""
        segments = self._segments(self._divide()[1], varied=False, seed=self.split_seed)(0)
        return BatchLoader(make_batch, lambda epoch: segments)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the streams, and the tokenizer as JSON."""
        place = self._train_loader.state_dict() if self._train_loader else {}
        return {**super().state_dict(), "place": place, "tokenizer": self.tokenizer.to_str()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes training continue from a saved place, with the vocabulary of the checkpoint."""
        super().load_state_dict(state_dict)
        self._resume_at = state_dict["place"]
        if self.take_tokenizer(state_dict["tokenizer"]):
            self._documents = None

    def _divide(self) -> tuple[np.ndarray, np.ndarray]:
        """Divides the documents into those to train on and those to validate on."""
        total, count = len(self.documents.lengths), self._train_documents
        if total > count:
            return np.arange(count), np.arange(count, total)
        held_out = round(self.validation_fraction * count)
        if not 0 < held_out < count:
            raise UserError(
                f"data.validation_fraction is {self.validation_fraction} of {count} documents: expected at least one"
                " document on either side"
            )
        order = np.random.default_rng(self.split_seed).permutation(count)
        return np.sort(order[held_out:]), np.sort(order[:held_out])

    def _segments(self, rows: np.ndarray, varied: bool, seed: int) -> EpochBatches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise UserError(f"{self.batch_size} streams cannot be shared equally by {world_size} processes")
        before, after = self.special_tokens.before, self.special_tokens.after or [self.special_tokens.separator]
        tokens = int(self.documents.lengths[rows].sum()) + len(rows) * (len(before) + len(after))
        streams = min(self.batch_size, tokens // 2)  # a small hold-out has fewer streams
        length = tokens // streams
        ends = segment_ends(length - 1, self.segment_tokens, seed if varied else None)

        @lru_cache(maxsize=1)  # only the last epoch's streams are kept, a few bytes for each token
        def segments(epoch: int) -> Batches:
            order = np.random.default_rng([seed, epoch]).permutation(rows)
            stream = stream_of(self.documents, order, before, after)
            if self.direction == "backward":
                stream = stream[::-1]
            if self.masked_fraction:
                stream = self._masked(stream, [seed, epoch, 3])
            parallel = stream[: streams * length].reshape(streams, length, *stream.shape[1:])[rank::world_size]
            # Each segment also has the token before its first label. The slices are views, not copies.
            return [parallel[:, start : stop + 1] for start, stop in zip([0, *ends], ends, strict=False)]

        return segments

    def _masked(self, stream: np.ndarray, seed: list[int]) -> np.ndarray:
        """Masks tokens of a stream.

        Returns:
            int32 [tokens, 2]: each token as the network reads it, and its label.

        Raises:
            UserError: For a tokenizer without a token that masks others.
        """
        tokens = self.special_tokens
        if tokens.mask is None:
            raise UserError(
                f"data.masked_fraction is {self.masked_fraction}, and tokenizer {self.tokenizer_kind} has no [MASK]:"
                " expected the tokenizer of a masked language model"
            )
        return mask_tokens(stream, self.masked_fraction, tokens.mask, tokens.marks, self.vocabulary_size, seed)


class DemoTextStreams(LanguageModelDataModule):
    """Makes streams of the generated training reviews of both domains, which need no download.

    Args:
        tasks: The domains to take reviews from.
    """

    def __init__(
        self,
        tasks: tuple[Literal["source", "target"], ...] = ("source", "target"),
        batch_size: int = 16,
        **kwargs: Keywords[StreamOptions],
    ) -> None:
        super().__init__(path="embedded", train_splits=tasks, batch_size=batch_size, **kwargs)

    def split_names(self) -> list[str]:
        """Gives the names of the domains."""
        return ["source", "target"]

    def open_split(self, split: str) -> datasets.Dataset:
        """Generates the training texts of a domain."""
        dataset = demo_texts.generate(split, "train")  # type: ignore[arg-type]
        hub.require_columns(dataset, f"data set {self.path!r}", text_column=self.text_columns)
        return dataset
