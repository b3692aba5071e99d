"""Names and types of the arguments that data modules pass on to the classes that they extend."""

from typing import Literal, TypedDict

from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.left_out import OnError
from lightning_transfer.data.mixing import Mixing
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.views import Views


class ClassificationOptions(TypedDict, total=False):
    """The arguments of every data module for classification."""

    label_column: str | list[str] | None
    problem_type: ProblemType
    balanced_sampling: bool
    private: bool
    on_error: OnError
    train_split: str
    validation_split: str | None
    test_split: str
    test_fraction: float
    test_seed: int
    group_column: str | None
    eval_batch_size: int
    validation_fraction: float
    train_fraction: float
    examples_per_class: int | None
    split_seed: int
    resident_gib: float
    reader: ReaderOptions | None


class BatchedClassificationOptions(ClassificationOptions, total=False):
    """The arguments of :class:`ClassificationOptions` and the batch size."""

    batch_size: int


class ImageOptions(BatchedClassificationOptions, total=False):
    """The arguments of a data set of images, except its columns, its size and its normalisation."""

    normalise_as: str | None
    augmentation: Augmentation | None
    mixing: Mixing | None
    views: Views | None
    near_duplicate_bits: int | None
    window: tuple[float, float] | None
    image_folder: str | None
    predict_path: str | None


class TokenizerOptions(TypedDict, total=False):
    """The arguments that determine how texts become tokens."""

    tokenizer: str
    max_vocabulary_size: int
    vocabulary_path: str | None


class LabelledTextOptions(TokenizerOptions, ClassificationOptions, total=False):
    """The arguments that a classification of texts takes in addition to its own."""


class TextOptions(LabelledTextOptions, total=False):
    """The arguments of a data set of texts, except its path."""

    batch_size: int
    text_column: str | list[str]
    max_tokens: int
    document_start: bool
    eval_batch_tokens: int
    predict_path: str | None


class StreamOptions(TokenizerOptions, total=False):
    """The arguments of streams of texts, except their path and the batch size."""

    text_column: str | list[str]
    validation_split: str | None
    test_fraction: float
    test_seed: int
    label_column: str | None
    group_column: str | None
    direction: Literal["forward", "backward"]
    segment_tokens: int
    varied_segments: bool
    masked_fraction: float
    validation_fraction: float
    split_seed: int
    reader: ReaderOptions | None
