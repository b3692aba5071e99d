"""Adversarial training of networks that read tokens: a batch, and the same batch moved a step against its labels."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.data.batches import Batch, parts
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.classifier import Classifier, ClassifierOptions


class AdversarialClassifier(Classifier):
    """A classifier of texts that also learns each batch with its embedded tokens moved towards a higher loss.

    The loss of the moved batch is added to that of the batch as it is. A step takes nearly three times as long. The
    training log and the evaluation are those of the batch as it is.

    Args:
        adversarial_norm: Length of the step by which the embedded tokens of each document are moved.

    Raises:
        UserError: For a length that is not above 0, a network without an embedding, and a compiled one.

    Source:
        Miyato, Dai and Goodfellow, Adversarial Training Methods for Semi-Supervised Text Classification, 2017.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, adversarial_norm: float = 1.0, **kwargs: Keywords[ClassifierOptions]
    ) -> None:
        super().__init__(network, num_classes, **kwargs)
        if adversarial_norm <= 0:
            raise UserError(f"model.adversarial_norm is {adversarial_norm}: expected above 0")
        if self.cache_features:
            raise UserError(
                "model.cache_features is true: expected false with AdversarialClassifier, which moves tokens"
            )
        find_embedding(self.network)  # refuses a network without one
        self.adversarial_norm = adversarial_norm

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of a training batch and that of the moved batch, and returns their sum."""
        inputs, labels = parts(batch, self.network)
        with MovableEmbedding(find_embedding(self.network)) as embedding:
            loss = super().training_step(batch, batch_idx)
            embedding.move(loss, inputs[0], self.adversarial_norm)
            moved_loss: Tensor = self.training_loss(self(*inputs), labels)
        return loss + moved_loss


def find_embedding(network: nn.Module) -> nn.Embedding:
    """Finds the first embedding of a network.

    Raises:
        UserError: For a network without one, and a compiled one, which calls no hooks.
    """
    embedding = next((module for module in network.modules() if isinstance(module, nn.Embedding)), None)
    if embedding is None:
        raise UserError(
            f"model.network is {type(network).__name__}: expected a network with an nn.Embedding, whose output"
            " adversarial training moves"
        )
    if network._compiled_call_impl is not None:
        raise UserError("model.compile is true: expected false with AdversarialClassifier, which needs hooks")
    return embedding


class MovableEmbedding:
    """A context that watches the output of an embedding, and moves it once it has been told where to.

    Every document's embedded tokens move along their gradient, normalised over the document. Dropout falls anew.

    Args:
        embedding: What is moved is its output, frozen or not.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        self._embedding = embedding
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._step: Tensor | None = None

    def __enter__(self) -> "MovableEmbedding":
        self._hook = self._embedding.register_forward_hook(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def move(self, loss: Tensor, token_ids: Tensor, norm: float) -> None:
        """Moves what the embedding gives from now on towards a higher loss.

        Args:
            loss: The mean loss of the batch, by way of the embedding.
            token_ids: int64 [batch, time], what the network reads.
            norm: Euclidean length of the step of a document, over all its tokens and features.

        Raises:
            UserError: Where the embedding was not called once with gradients.
        """
        if len(self._calls) != 1:
            raise UserError(
                f"this network embeds the tokens of a batch {len(self._calls)} times: expected once, as"
                " AdversarialClassifier needs it; choose Classifier"
            )
        [(embedded_ids, embedded)] = self._calls
        (gradient,) = torch.autograd.grad(loss, embedded, retain_graph=True)
        self._step = _of_length(gradient, norm, _has_batch_first(embedded_ids, token_ids))

    def _watch(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():  # what a network reads without gradients stays where it is
            return None
        if self._step is not None:
            return output + self._step.to(output.dtype)
        self._calls.append((inputs[0], output.requires_grad_()))
        return None


def _of_length(gradient: Tensor, norm: float, batch_first: bool) -> Tensor:
    within_document = (1, 2) if batch_first else (0, 2)
    gradient = gradient.float()
    length = torch.linalg.vector_norm(gradient, dim=within_document, keepdim=True)
    # A document without a gradient stays where it is.
    step: Tensor = norm * gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)
    return step


def _has_batch_first(embedded_ids: Tensor, token_ids: Tensor) -> bool:
    """Recurrent networks often put the time first, and may read but the last steps with gradients."""
    first, second = embedded_ids.shape
    if first != second:
        return first == len(token_ids)
    return torch.equal(embedded_ids, token_ids[:, -second:])
