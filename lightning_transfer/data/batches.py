"""What travels from data to network: one named tuple per kind of input."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from lightning_transfer.errors import UserError

# Whether an example has one class, any number of classes, or numbers.
ProblemType = Literal["classification", "multilabel", "regression"]

_LABELS = ("labels", "label", "targets", "target", "y")  # how dictionaries call them
_ROUNDING = 0.02  # of a sum of shares in bfloat16


class Batch(Protocol):
    """What a classifier needs of a batch."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network's ``forward``."""

    @property
    def labels(self) -> Tensor:
        """What is to be predicted.

        The class, int64 [batch], and in training also the share of each class, float [batch, classes]. With several
        classes for an example 1 for each that it has, float [batch, classes]. With numbers these, float [batch,
        numbers].
        """


class ImageBatch(NamedTuple):
    """A batch of labelled images.

    Attributes:
        images: uint8 [batch, channels, height, width] as stored; float32, normalised, once on the device.
        labels: int64 [batch], -1 where there is no label (prediction); the share of each class, float32 [batch,
            classes], once training images are mixed. See ``Batch`` for other problem types.
        indices: int64 [batch], the row of each image in its split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network's ``forward``."""
        return (self.images,)


class TrainingImageBatch(ImageBatch):
    """A batch of images to train on, as stored: augmented and mixed once on the device."""


class TwoViewBatch(NamedTuple):
    """A batch of images to learn from without labels: two random views of each.

    Attributes:
        images: float32 [batch, 2, channels, height, width], normalised.
        indices: int64 [batch], the row of each image in its split.
    """

    images: Tensor
    indices: Tensor


class TextBatch(NamedTuple):
    """A batch of labelled documents.

    Attributes:
        token_ids: int64 [batch, time], right-padded with 0, or with the padding of a pretrained model.
        lengths: int64 [batch], the tokens of each document, at least 1.
        labels: int64 [batch], -1 where there is no label (prediction). See ``Batch`` for other problem types.
        indices: int64 [batch], the row of each document in its split.
    """

    token_ids: Tensor
    lengths: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network's ``forward``."""
        return self.token_ids, self.lengths


class TaskBatch(NamedTuple):
    """A batch of one of several tasks; a training step has a list of them.

    Attributes:
        task: The name of the task.
        batch: What the task's data gives.
        other_labels: The labels that other tasks have for the same examples, by the names of these tasks.
    """

    task: str
    batch: Any
    other_labels: dict[str, Tensor]

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that are learned from these examples."""
        return [self.task, *self.other_labels]

    @property
    def labels(self) -> dict[str, Tensor]:
        """The labels of each task that is learned from these examples."""
        return {self.task: parts(self.batch)[1], **self.other_labels}


def parts(batch: Any, forward: Callable[..., Any] | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Takes a batch apart.

    Args:
        batch: A named tuple of this module or alike; an ordinary ``(inputs, labels)``, whose inputs are a tensor or
            several; or a dictionary with ``labels``, ``label``, ``targets``, ``target`` or ``y``, all else being
            inputs.
        forward: The network or its ``forward``, which takes several inputs of a dictionary by their names.

    Returns:
        The arguments of the network's ``forward``, and the labels.

    Raises:
        UserError: For anything else.
    """
    if hasattr(batch, "inputs"):
        return batch.inputs, batch.labels
    if isinstance(batch, TwoViewBatch):
        raise UserError("data.views is on, from which SelfSupervisedModule alone learns: set data.views null")
    if isinstance(batch, Mapping):
        names = [name for name in _LABELS if name in batch]
        if len(names) == 1 and len(batch) > 1 and isinstance(batch[names[0]], Tensor):
            return inputs_of(batch, forward), batch[names[0]]
        found = f"a dictionary with {', '.join(map(str, batch))}"
        raise UserError(
            f"the data gives batches of {found}: expected inputs, and labels as one of {', '.join(_LABELS)}"
        )
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        inputs, labels = batch
        return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), labels
    raise UserError(
        f"the data gives batches of {type(batch).__name__}: expected (inputs, labels), a dictionary with labels, or"
        " named tuples with inputs and labels, as lightning_transfer.data.batches.ImageBatch"
    )


def inputs_of(batch: Any, forward: Callable[..., Any] | None = None) -> tuple[Tensor, ...]:
    """Takes the inputs of a batch to predict, which may come without labels: a tensor, a list of one, or a dictionary.

    Args:
        batch: See :func:`parts`.
        forward: As there.

    Raises:
        UserError: For anything else, and for names that ``forward`` does not take.
    """
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, list | tuple) and not hasattr(batch, "inputs") and len(batch) == 1:
        return tuple(batch)
    if not isinstance(batch, Mapping):
        return parts(batch)[0]
    inputs = {str(name): value for name, value in batch.items() if name not in _LABELS}
    if len(inputs) < 2 or forward is None:
        return tuple(inputs.values())
    signature = inspect.signature(getattr(forward, "forward", forward))
    try:
        bound = signature.bind(**inputs)
    except TypeError as error:
        raise UserError(
            f"the data gives batches with {', '.join(inputs)}: expected what forward takes, {signature} ({error})"
        ) from error
    bound.apply_defaults()
    if bound.kwargs:
        raise UserError(f"forward takes {', '.join(bound.kwargs)} by name alone: expected no * in {signature}")
    return bound.args


def examples_in(batch: Any) -> int:
    """Counts the examples of any batch: its labels, else the first tensor found in it; 0 where there is none."""
    if isinstance(batch, TaskBatch):
        return getattr(batch.batch, "streams", None) or examples_in(batch.batch)
    if isinstance(batch, list) and all(isinstance(one, TaskBatch) for one in batch):
        return sum(map(examples_in, batch))
    labels = getattr(batch, "labels", None)
    if isinstance(labels, Tensor):
        return labels.shape[0]
    first = batch
    while isinstance(first, dict | list | tuple) and first:
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return len(first) if isinstance(first, Tensor) and first.ndim else 0


def examples_in_step(batch: Any, data: object, processes: int) -> int:
    """Counts the examples of a step on all processes together; of private ones as many as are expected in a batch.

    How many private examples were drawn is nowhere said, as that would tell of one more.

    Args:
        batch: The batch of this process.
        data: The data module that it comes from, or None.
        processes: Number of processes.
    """
    if getattr(data, "private", False):
        expected: int = data.expected_examples  # type: ignore[attr-defined]
        return expected
    return examples_in(batch) * processes


def are_shares(rows: Tensor) -> Tensor:
    """Says which rows are probabilities: at least 0 and, but for rounding, 1 together.

    Args:
        rows: float [batch, classes].

    Returns:
        bool [batch], False for rows with what is no number.
    """
    return (rows >= 0).all(1) & ((rows.float().sum(1) - 1).abs() < _ROUNDING)
