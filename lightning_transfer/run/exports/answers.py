"""Says what an exported program takes and gives, and makes examples to try it on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.texts import TextDataModule
from lightning_transfer.errors import UserError
from lightning_transfer.run.predictor import Member

Axes = tuple[dict[int, str], ...]  # of each input, the names of the dimensions that may have any size

BATCH_SIZES = (2, 1, 5)  # that an export is checked with; traced with the first, as one of a kind would be fixed
_LENGTHS = (12, 3, 41)  # tokens
_ANY_SIZE = 2**20  # a size that may be as large has no bound
_SIZES = (1.0, 1.5, 2.0)  # times the size of the run's images


class Answers(nn.Module):
    """Computes the probabilities or numbers of a batch from the inputs of the network.

    Args:
        classifier: A module that has ``predictions``, as :class:`lightning_transfer.Classifier`.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier


class AnswersOfImages(Answers):
    """Takes images."""

    def forward(self, images: Tensor) -> Tensor:
        """Computes float32 [batch, classes] from float32 [batch, 3, height, width]."""
        found: Tensor = self.classifier.predictions(self.classifier(images))
        return found


class AnswersOfTexts(Answers):
    """Takes texts."""

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes float32 [batch, classes] from int64 [batch, time] and int64 [batch]."""
        found: Tensor = self.classifier.predictions(self.classifier(token_ids, lengths))
        return found


class Exported(NamedTuple):
    """What is exported.

    Attributes:
        answers: The module on the CPU, in float32 and in evaluation.
        input_names: Names of its inputs.
        output_name: Name of its output.
        axes: The dimensions that should have any size.
        data: The data module, which knows classes and preprocessing.
    """

    answers: Answers
    input_names: list[str]
    output_name: str
    axes: Axes
    data: ImageDataModule | TextDataModule

    def most_of(self, name: str) -> int:
        """Returns how large a dimension has to be allowed to be: as the longest text that is read, or any size."""
        if name != "time" or not isinstance(self.data, TextDataModule):
            return _ANY_SIZE
        return min(self.data.max_tokens, getattr(self.answers.classifier.network, "most_tokens", _ANY_SIZE))

    def examples(self, batch_size: int, number: int = 0) -> tuple[Tensor, ...]:
        """Generates a batch as the data module would make it: noise for images, tokens at random for texts.

        Args:
            batch_size: Number of examples.
            number: Which of three lengths of texts, or sizes of images.
        """
        generator = np.random.default_rng([batch_size, number])
        if isinstance(self.data, TextDataModule):
            return _texts(self.data, generator, batch_size, min(_LENGTHS[number], self.most_of("time")))
        size = round(self.data.image_size * _SIZES[number])
        pixels = generator.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
        # Not by the run's preprocessing, which would bring all to one size.
        mean, std = self.data.normalisation
        return ((torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 255 - mean) / std,)

    def all_examples(self, axes: Axes) -> Iterator[tuple[Tensor, ...]]:
        """Generates batches of three sizes, and of three lengths or image sizes where these may differ."""
        is_free = any(len(of_input) > 1 for of_input in axes)
        for batch_size in BATCH_SIZES:
            for number in range(3 if is_free else 1):
                yield self.examples(batch_size, number)


def exported_of(member: Member) -> Exported:
    """Prepares a run for an export.

    Args:
        member: The run, on the CPU.

    Raises:
        UserError: For a module that is no classifier, and data that is neither images nor texts.
    """
    module: Any = member.module
    if not hasattr(module, "predictions") or not isinstance(member.data, ImageDataModule | TextDataModule):
        kinds = f"{type(module).__name__} on {type(member.data).__name__}"
        raise UserError(f"{member.name} is {kinds}: expected Classifier on images or texts")
    output = "values" if member.data.problem_type == "regression" else "probabilities"
    module.float().eval()
    module.network._compiled_call_impl = None  # it is traced as it is
    if isinstance(member.data, ImageDataModule):
        of_images = ({0: "batch", 2: "height", 3: "width"},)
        return Exported(AnswersOfImages(module), ["images"], output, of_images, member.data)
    of_texts = ({0: "batch", 1: "time"}, {0: "batch"})
    return Exported(AnswersOfTexts(module), ["token_ids", "lengths"], output, of_texts, member.data)


def _texts(data: TextDataModule, generator: np.random.Generator, batch_size: int, longest: int) -> tuple[Tensor, ...]:
    lengths = torch.from_numpy(generator.integers(1, longest + 1, batch_size))
    lengths[0] = longest
    token_ids = torch.from_numpy(generator.integers(0, data.vocabulary_size, (batch_size, longest)))
    is_text = torch.arange(longest) < lengths.unsqueeze(1)
    return token_ids.masked_fill(~is_text, data.special_tokens.padding), lengths
