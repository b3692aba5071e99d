"""Says what is explained: the score of a class, as a function of images or of embedded tokens."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.texts import TextDataModule
from lightning_transfer.errors import UserError
from lightning_transfer.run.predictor import Member

Inputs = tuple[Tensor, ...]

_CELLS = 3  # along a side of a feature map, below which it can hardly say where anything is


class Scores(nn.Module):
    """Computes the score of each class, before it becomes a probability; in a regression, the numbers.

    Args:
        classifier: A module that has ``predictions``, as :class:`lightning_transfer.Classifier`.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, *inputs: Tensor) -> Tensor:
        """Computes float32 [batch, classes] from the inputs of the network."""
        logits: Tensor = self.classifier(*inputs)
        is_shared = logits.shape[1] == 1 and self.classifier.num_classes == 2  # one logit for two classes
        return torch.cat([-logits, logits], 1) if is_shared else logits

    @torch.no_grad()
    def outcomes(self, inputs: Inputs, targets: Tensor) -> Tensor:
        """Computes the probability of a class of each example, or a number: float32 [batch].

        Args:
            inputs: The inputs of the network.
            targets: int64 [batch], the class or the number.
        """
        found: Tensor = self.classifier.predictions(self.classifier(*inputs))
        return found.gather(1, targets.unsqueeze(1)).squeeze(1)


def require_explainable(member: Member) -> None:
    """Refuses a run that cannot be explained.

    Raises:
        UserError: For a module that is no classifier, and data that is neither images nor texts.
    """
    if not hasattr(member.module, "predictions") or not isinstance(member.data, ImageDataModule | TextDataModule):
        kinds = f"{type(member.module).__name__} on {type(member.data).__name__}"
        raise UserError(f"{member.name} is {kinds}: expected Classifier on images or texts")


def scores_of(member: Member) -> Scores:
    """Prepares a run to be explained: in float32, in evaluation, and on an image itself where views are averaged.

    Args:
        member: The run, whose module is changed in place.
    """
    module: Any = member.module
    module.float().eval()
    module.network._compiled_call_impl = None  # compiled code does not call hooks
    if hasattr(module.network, "test_views"):
        module.network.test_views = "one"
    return Scores(module)


@contextmanager
def differentiable() -> Iterator[None]:
    """Allows gradients through any network in evaluation: cuDNN has no backward through an LSTM there."""
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def last_feature_map(forward: Callable[[], Any], candidates: Iterable[nn.Module]) -> nn.Module | None:
    """Finds the module that gives the last feature map whose height and width are equal and at least 3.

    Channels that come last, as in some transformers, make no feature map.

    Args:
        forward: Runs the network once.
        candidates: The modules to consider.
    """
    ran: list[nn.Module] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] >= _CELLS:
            ran.append(module)

    hooks = [module.register_forward_hook(note) for module in candidates]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1] if ran else None


class Embedded:
    """Runs a network from its embedded tokens on, in whatever order it embeds them.

    Args:
        scores: The network, whose first embedding is that of the tokens.

    Raises:
        UserError: If it has no embedding.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        found = next((module for module in scores.modules() if isinstance(module, nn.Embedding)), None)
        if found is None:
            raise UserError(f"{type(scores.classifier.network).__name__} has no embedding: expected one of tokens")
        self.embedding = found

    @torch.no_grad()
    def embed(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the embedding of each token, float [batch, time, features].

        Args:
            token_ids: int64 [batch, time].
            lengths: int64 [batch].

        Raises:
            UserError: If the network embeds the tokens in an order that cannot be followed.
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(_: nn.Module, inputs: Inputs, output: Tensor) -> None:
            seen.append((inputs[0], output))

        with self._hooked(keep):
            self.scores(token_ids, lengths)
        ids, embedded = seen[0]
        if not _are_of(token_ids, ids, lengths):
            ids, embedded = (self._in_order(values, token_ids, lengths).transpose(0, 1) for values in (ids, embedded))
        if not _are_of(token_ids, ids, lengths):
            name = type(self.scores.classifier.network).__name__
            raise UserError(
                f"{name} embeds tokens in an order of its own: expected that of the text, or in_reading_order"
            )
        return embedded

    def __call__(self, embedded: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes scores, float [batch, classes], with other embeddings of the tokens, as ``embed`` gives them."""

        def replace(_: nn.Module, inputs: Inputs, output: Tensor) -> Tensor:
            if _are_of(token_ids, inputs[0], lengths):
                return embedded
            return self._in_order(embedded.transpose(0, 1), token_ids, lengths)

        with self._hooked(replace):
            scores: Tensor = self.scores(token_ids, lengths)
        return scores

    def _in_order(self, steps: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Turns time steps, [time, batch, ...], from the order of the text into that of the network, or back."""
        reorder = getattr(self.scores.classifier.network, "in_reading_order", lambda steps, *_: steps)
        ordered: Tensor = reorder(steps, token_ids, lengths)
        return ordered

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handle = self.embedding.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _are_of(token_ids: Tensor, ids: Tensor, lengths: Tensor) -> bool:
    """Says whether ids are those of texts, but for what is padding."""
    if ids.shape != token_ids.shape:
        return False
    is_token = torch.arange(token_ids.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    return torch.equal(ids[is_token], token_ids[is_token])
