"""Predicts tokens by a language model of Hugging Face transformers: the next ones, or those that are masked."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer.keywords import Keywords
from lightning_transfer.networks.transformers_model import (
    build_model,
    has_masked_model,
    transformer_layer_groups,
    tried_out,
)
from lightning_transfer.networks.transformers_network import Transformer, TransformerOptions

NOT_MASKED = -100  # the label of a token that is not to be guessed


class TransformersLanguageModel(Transformer):
    """Predicts the next tokens of a stream by a decoder, or masked tokens by an encoder, as the model's type has it.

    Each segment is read by itself: nothing is carried from one to the next. A masked model needs
    ``data.masked_fraction``. Its losses, and the perplexity, are those of the masked tokens.

    Attributes:
        model: The library's language model.
        is_masked: Whether it predicts masked tokens.
        layer_groups: The layers to freeze and unfreeze together: embeddings, layer.0, …, layer.n, head.
    """

    def __init__(self, **kwargs: Keywords[TransformerOptions]) -> None:
        super().__init__(**kwargs)
        base = self.model.base_model
        [prefix] = [name for name, part in self.model.named_children() if part is base]
        groups = transformer_layer_groups(base)
        self.layer_groups = {name: [f"model.{prefix}.{path}" for path in paths] for name, paths in groups.items()}
        others = {name: part for name, part in self.model.named_children() if part is not base}
        self.layer_groups["head"] = [f"model.{name}" for name, part in others.items() if [*part.parameters()]]
        self._path_of_states = _path_of_states(self.model)

    def build(self, dropout: float | None) -> Any:
        """Builds the model from ``config``."""
        self.is_masked = has_masked_model(self.config)
        return build_model(self.config, "masked" if self.is_masked else "causal", dropout)

    def forward(
        self, token_ids: Tensor, labels: Tensor, state: list[Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
        """Reads a segment of each stream.

        Args:
            token_ids: int64 [time, batch].
            labels: int64 [time * batch], the token after each; or the masked token, and -100 for the others.
            state: Is not used.

        Returns:
            The negative log-likelihood of each token to predict in nats, float32 [tokens]; the states that the head
            gets, float [tokens, hidden_size], twice; and an empty list, as there is no state to carry.

        Raises:
            UserError: For segments that are longer than the model can read.
        """
        self.check_length(len(token_ids))
        rows = (labels != NOT_MASKED).nonzero().squeeze(1) if self.is_masked else None
        kept: list[Tensor] = []

        def select(_: Any, __: Any, output: Any) -> Any:
            """Gives the head, which costs much over a large vocabulary, but the tokens to predict."""
            states = output[0].transpose(0, 1).flatten(0, 1)
            kept.append(states if rows is None else states[rows])
            output["last_hidden_state"] = kept[-1].unsqueeze(0)
            return output

        hook = self.model.get_submodule(self._path_of_states).register_forward_hook(select)
        try:
            ids = token_ids.t()
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True).logits
        finally:
            hook.remove()
        targets = labels if rows is None else labels[rows]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
        if not len(losses):  # a short segment may have none to predict; the sum of nothing has gradients of 0
            losses = logits.float().flatten(0, 1).sum(1)
        return losses, kept[0], kept[0], []


def _path_of_states(model: Any) -> str:
    """Finds the part that gives the head its states: the whole model below it, or a decoder inside that."""
    base, called = model.base_model, list[str]()
    hooks = [
        part.register_forward_hook(lambda *_, path=path: called.append(path))
        for path, part in model.named_modules()
        if any(part is inner for inner in base.modules())
    ]
    try:
        with tried_out(model):
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1]  # what was called first ends last
