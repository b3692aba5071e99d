"""Text classification data: tokenised once into one array of token ids, served in batches of similar length."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, cast

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data import demo_texts, hub
from lightning_transfer.data.batches import TextBatch
from lightning_transfer.data.buckets import bucketed_batches, token_batches
from lightning_transfer.data.classification import ClassificationDataModule, require_at_least
from lightning_transfer.data.keyword_arguments import LabelledTextOptions, TextOptions
from lightning_transfer.data.loader import BatchLoader, EpochBatches
from lightning_transfer.data.overlap import Rows
from lightning_transfer.data.private_examples import refuse_sample, require_given
from lightning_transfer.data.reading.documents import columns_of_given, read_documents
from lightning_transfer.data.reading.tables import columns_of_texts, warn_of_missing_texts
from lightning_transfer.data.splits import Split, evenly_spaced, names_of
from lightning_transfer.data.tokenizer import (
    PADDING_ID,
    UNKNOWN_ID,
    Documents,
    cached_documents,
    join,
    tokenize,
)
from lightning_transfer.data.truncation import bounds_of, cut, surround
from lightning_transfer.data.vocabulary import TokenizedTexts
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords


class TextDataModule(TokenizedTexts, ClassificationDataModule[Documents]):
    """Text classification from any data set with a text column and a label column.

    The vocabulary is learned from the training split alone. It travels in every checkpoint, with the names of the
    classes, and lies beside the run as ``tokenizer.json``. Texts are tokenised once into a memory-mapped cache.

    Args:
        text_column: The column of the texts, or several, as [title, body] or [premise, hypothesis]. The texts of a row
            are then one document, with a separator between them.
        max_tokens: Tokens of a document at most, with those that a pretrained model adds. Of a longer one the first
            quarter of that and the last three are kept, as texts say what they are about at the start and what they
            conclude at the end (after Sun et al., 2019, "How to fine-tune BERT for text classification?"). Several
            texts share the tokens equally, and what a short one leaves goes to the others; each that is cut keeps a
            quarter and three quarters likewise.
        document_start: Whether each document begins with the token that sets documents apart in the streams of a
            language model: what an encoder brought along from there has read before every document.
        eval_batch_tokens: Tokens, padding included, in a batch on each device in validation, test and prediction.
        predict_path: What ``predict`` reads: a table as those of the training (CSV, TSV, JSON, Parquet; its text
            column), a text file with one document a line, or a folder of ``.txt`` files. The test split if not given.
    """

    is_augmented = False  # a document is the same one in every epoch

    def __init__(
        self,
        path: str,
        text_column: str | list[str] = "text",
        max_tokens: int = 400,
        batch_size: int = 64,
        document_start: bool = False,
        eval_batch_tokens: int = 32_768,
        predict_path: str | None = None,
        **kwargs: Keywords[LabelledTextOptions],
    ) -> None:
        super().__init__(path=path, batch_size=batch_size, **kwargs)
        self.text_columns = [text_column] if isinstance(text_column, str) else list(text_column)
        if not self.text_columns or len(set(self.text_columns)) < len(self.text_columns):
            raise UserError(f"data.text_column is {self.text_columns}: expected one column, or several different ones")
        # At least one token of each text, with the separators between them.
        require_at_least(2 * len(self.text_columns) - 1, max_tokens=max_tokens)
        require_at_least(1, eval_batch_tokens=eval_batch_tokens)
        self.max_tokens = max_tokens
        self.document_start = document_start
        self.eval_batch_tokens = eval_batch_tokens
        self.predict_path = predict_path

    def read_split(self, split: str) -> Split[Documents]:
        """Reads a split: its token ids from the cache once it has been tokenised."""
        dataset = self.open_split(split, text_column=self.text_columns)
        labels = self.read_labels(dataset, split)
        columns, fingerprint = columns_of_texts(dataset, self.text_columns)
        if not self.private:  # it names the rows
            warn_of_missing_texts(dataset, self.text_columns, f"split {split!r}")
        documents = cached_documents(self.tokenizer, columns, fingerprint, len(dataset))
        return Split(documents, labels, dataset._fingerprint, names_of(dataset))

    def tensors_of(self, split: Split[Documents]) -> tuple[Tensor, ...]:
        """Gives token ids, where the texts of each document begin, and labels."""
        bounds = bounds_of(split.inputs, len(self.text_columns), self.special_tokens.padding)
        return torch.from_numpy(split.inputs.token_ids), torch.from_numpy(bounds), split.labels

    def content_of(self, split: Split[Documents]) -> Rows:
        """Gives the token ids of each document."""
        return Rows(*split.inputs)

    def batch_maker(self, split: Split[Documents], is_training: bool = False) -> Callable[[np.ndarray], TextBatch]:
        """Gives what cuts, pads and stacks the documents of rows, on the accelerator where they are kept there."""
        token_ids, bounds, labels = self.resident(split)
        tokens, most = self.special_tokens, self._most_tokens_of_text
        before = [*tokens.before, *([tokens.separator] if self.document_start else [])]

        def take(rows: np.ndarray) -> TextBatch:
            # Known here: asking the device would be to wait for it.
            longest = int((split.inputs.offsets[rows + 1] - split.inputs.offsets[rows]).max())
            indices = torch.from_numpy(rows).to(token_ids.device, non_blocking=True)
            longest = min(longest, most)
            padded, lengths = cut(token_ids, bounds.index_select(0, indices), most, longest, tokens.padding)
            if before or tokens.after:
                padded, lengths = surround(padded, lengths, tokens, before)
            return TextBatch(padded, lengths.squeeze(1), labels[indices], indices)

        return take

    @property
    def _most_tokens_of_text(self) -> int:
        """``max_tokens`` without those that the model adds.

        Raises:
            UserError: If nothing is left for the texts.
        """
        added = len(self.special_tokens.before) + len(self.special_tokens.after)
        require_at_least(2 * len(self.text_columns) - 1 + added, max_tokens=self.max_tokens)
        return self.max_tokens - added

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document in a batch, of all splits that have been read; 0 before."""
        tokens = self.special_tokens if self._splits else None
        lengths = [int(self._cut_lengths(split).max(initial=0)) for split in self._splits.values()]
        return 0 if tokens is None else max(lengths) + len(tokens.before) + len(tokens.after) + self.document_start

    def train_batches(self, split: Split[Documents], rows: np.ndarray, **share: int) -> EpochBatches:
        """Divides the training rows into batches of similar length."""
        order, lengths = self.training_order(split, rows), self._cut_lengths(split)
        return bucketed_batches(rows, lengths, batch_size=self.batch_size, seed=self.run_seed, order=order, **share)

    def eval_batches(self, split: Split[Documents], rows: np.ndarray, **share: Any) -> EpochBatches:
        """Divides rows into batches of similar length with a limited number of tokens."""
        added = len(self.special_tokens.before) + len(self.special_tokens.after) + self.document_start
        lengths = self._cut_lengths(split) + added
        size, tokens = self.eval_batch_size, self.eval_batch_tokens
        return token_batches(rows, lengths, batch_size=size, batch_tokens=tokens, **share)

    def setup(self, stage: str) -> None:
        """Divides the training split, and writes the tokenizer beside the run."""
        super().setup(stage)
        if stage == "fit":
            self.write_tokenizer(self.trainer)
            validation = self._split(self._validates_on or self.train_split)
            train = self._split(self.train_split).inputs
            if not self.private:
                self.announce_tokens(train, self._train_rows, validation.inputs, self._validation_rows)

    def training_sample(self, count: int) -> Tensor:
        """Takes training documents from all over the training set, whole, after ``setup``.

        Args:
            count: How many, or all where there are fewer.

        Returns:
            int64 [tokens]: one after the other, with padding between them and in place of unknown words.
        """
        refuse_sample(self.private)
        token_ids, offsets = self._split(self.train_split).inputs
        rows = self._train_rows[evenly_spaced(len(self._train_rows), count)]
        padded = [np.append(token_ids[offsets[row] : offsets[row + 1]], PADDING_ID) for row in rows]
        sample = torch.from_numpy(np.concatenate(padded)).long()
        return sample.masked_fill(sample == UNKNOWN_ID, PADDING_ID)

    def predict_dataloader(self) -> BatchLoader:
        """Batches of the documents in ``predict_path``, else of the test split."""
        if self.predict_path is None:
            return self.test_dataloader()
        split = self._split_of(*read_documents(self.predict_path, self.text_columns, self.reader))
        return self.eval_loader(split, np.arange(len(split)))

    def split_of(self, examples: Sequence[object]) -> Split[Documents]:
        """Tokenises texts that a program gives to predict: strings, or as many in each as there are text columns."""
        return self._split_of(columns_of_given(examples, self.text_columns))

    def _split_of(self, columns: Sequence[Sequence[str]], names: Sequence[str] | None = None) -> Split[Documents]:
        documents = join([tokenize(self.tokenizer, texts) for texts in columns], self.special_tokens.padding)
        return Split(documents, torch.full((len(documents.lengths),), -1), "", names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a text becomes the input of the network, in plain types, beside the tokenizer."""
        tokens = self.special_tokens
        before = [*tokens.before, *([tokens.separator] if self.document_start else [])]
        return {
            "steps": "tokenizer.json without its special tokens, cut, padded on the right to the longest of the batch",
            "text_columns": self.text_columns,
            "max_tokens": self.max_tokens,
            "tokens_to_share": self._most_tokens_of_text - (len(self.text_columns) - 1),
            "share_of_each_text": "from the shortest text to the longest, each has at most what is left of"
            " tokens_to_share, divided by the texts that are left and rounded down",
            "kept_of_a_longer_text": "the first quarter of its share, rounded down, and the rest from its end",
            "before": before,
            "after": tokens.after,
            "between_texts": tokens.separator,
            "padding": tokens.padding,
            "of_a_text_without_tokens": tokens.unknown,
        }

    def state_dict(self) -> dict[str, Any]:
        """What every data module saves, and the tokenizer as JSON."""
        return {**super().state_dict(), "tokenizer": self.tokenizer.to_str()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave: from then on texts are read in the checkpoint's vocabulary."""
        super().load_state_dict(state_dict)
        if self.take_tokenizer(state_dict["tokenizer"]):
            self._splits.clear()

    def training_texts(self) -> tuple[list[Collection[str]], str]:
        """The texts of the training split by columns, and a fingerprint of them."""
        if self.private:
            require_given("that of the starting weights, or name a pretrained data.tokenizer", vocabulary_path=None)
        return columns_of_texts(self.open_split(self.train_split, text_column=self.text_columns), self.text_columns)

    def _cut_lengths(self, split: Split[Documents]) -> np.ndarray:
        lengths: np.ndarray = np.minimum(split.inputs.lengths, self._most_tokens_of_text)
        return lengths


class IMDB(TextDataModule):
    """IMDB: 50,000 film reviews, positive or negative, half of them for training. Source: Maas et al., 2011."""

    def __init__(self, path: str = "stanfordnlp/imdb", **kwargs: Keywords[TextOptions]) -> None:
        super().__init__(path=path, **kwargs)


class DemoTexts(TextDataModule):
    """Generated reviews that need no download: a source domain and a smaller, related target domain.

    Args:
        task: Which of the two domains.
    """

    def __init__(self, task: Literal["source", "target"] = "source", **kwargs: Keywords[TextOptions]) -> None:
        super().__init__(path="embedded", **kwargs)
        self.task = task

    def split_names(self) -> list[str]:
        """Gives the names of the generated splits."""
        return ["train", "test"]

    def open_split(self, split: str, **columns: Any) -> datasets.Dataset:
        """Generates a split."""
        dataset = demo_texts.generate(self.task, cast(Literal["train", "test"], split))
        hub.require_columns(dataset, f"data set {self.path!r}", **columns, label_column=self.label_columns.names)
        return dataset
