"""The arguments that data modules hand on to the classes that they extend, by name and type."""

from typing import Literal, TypedDict

from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.mixing import Mixing
from lightning_transfer.data.tokenizer import TokenizerKind


class ClassificationOptions(TypedDict, total=False):
    """What every data module of a classification takes."""

    label_column: str
    train_split: str
    test_split: str
    eval_batch_size: int
    validation_fraction: float
    train_fraction: float
    examples_per_class: int | None
    split_seed: int
    resident_gib: float


class BatchedClassificationOptions(ClassificationOptions, total=False):
    """The same with the batch size."""

    batch_size: int


class ImageOptions(BatchedClassificationOptions, total=False):
    """What a data set of images takes beside its columns, its size and its normalisation."""

    normalise_as: str | None
    augmentation: Augmentation | None
    mixing: Mixing | None
    predict_path: str | None


class TokenizerOptions(TypedDict, total=False):
    """What says how texts become tokens."""

    tokenizer: TokenizerKind
    max_vocabulary_size: int
    vocabulary_path: str | None


class LabelledTextOptions(TokenizerOptions, ClassificationOptions, total=False):
    """What a classification of texts takes beside its own arguments."""


class TextOptions(LabelledTextOptions, total=False):
    """What a data set of texts takes beside its place."""

    batch_size: int
    text_column: str
    max_tokens: int
    document_start: bool
    eval_batch_tokens: int
    predict_path: str | None


class StreamOptions(TokenizerOptions, total=False):
    """What streams of texts take beside their place and the size of a batch."""

    text_column: str
    direction: Literal["forward", "backward"]
    segment_tokens: int
    varied_segments: bool
    validation_fraction: float
    split_seed: int
