"""Computes the gradient of each example alone, and adds up those of a batch, each clipped to a norm."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_transfer.errors import UserError

Gradients = dict[str, Tensor]  # by the names of the parameters


class PerExampleGradients:
    """Computes gradients of single examples: each goes through the network as a batch of its own.

    So no layer can mix examples, whatever it does. Norm layers with running statistics use these and leave them as
    they are. Another layer that changes its buffers or parameters is refused. Examples are computed together by
    ``torch.func``. A network that this cannot do, such as one with an LSTM, takes one example after the other. A head
    that trains alone on stored features is computed together on any network.

    Args:
        module: Has ``training_loss`` of logits and labels; its parameters that require grad count.
    """

    def __init__(self, module: L.LightningModule) -> None:
        self._loss = _ExampleLoss(module)
        self._in_use: nn.Module = module  # the part of the network that the examples go through
        self._failed: nn.Module | None = None  # the part of which torch.func could not compute examples together
        self._reached: Collection[str] = ()  # the parameters that torch.func was seen to get to

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that train now, by name."""
        return {name: p for name, p in self._loss.named_parameters() if p.requires_grad}

    def clipped_sum(
        self, examples: tuple[Tensor, ...], clip_norm: float, at_once: int, head: nn.Module | None = None
    ) -> Gradients:
        """Adds up the gradients of a batch, each scaled down to a norm over all parameters that train.

        An example whose gradient is not finite adds nothing.

        Args:
            examples: The inputs and the labels of a batch, [batch, ...] each; the batch may be empty.
            clip_norm: The largest norm.
            at_once: Number of examples whose gradients are in memory together.
            head: The part of the network that takes these inputs; all of it if not given.

        Returns:
            A sum for each parameter that trains, of its shape.

        Raises:
            UserError: For a layer that changes a buffer or a parameter.
        """
        self._in_use = self._loss.module if head is None else head
        self._loss.logits = self._in_use.__call__
        total = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        if not total:
            return total
        for part in zip(*(tensor.split(at_once) for tensor in examples), strict=True):  # type: ignore[no-untyped-call]
            if not len(part[0]):
                continue
            gradients = self(part)
            with torch.autocast(part[0].device.type, enabled=False):  # the sum must not be rounded to 16 bits
                _add_clipped(total, gradients, clip_norm)
        return total

    def __call__(self, examples: tuple[Tensor, ...]) -> Gradients:
        """Computes the gradient of each example, [batch, ...] for each parameter that trains."""
        parameters: dict[str, Tensor] = dict(self.parameters)
        statistics = (layer for layer in self._loss.modules() if hasattr(layer, "running_mean"))
        with evaluating(statistics), self._unchanged_state():
            if self._may_be_together:
                generators = _generators(examples[0].device)
                states = [generator.get_rng_state() for generator in generators]
                try:
                    self._check_reach(parameters, examples)
                    return self._together(parameters, examples)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    self._failed = self._in_use
                    for generator, state in zip(generators, states, strict=True):  # as if it had not been tried
                        generator.set_rng_state(state)
                    reason = str(error).strip().splitlines()[0]
                    rank_zero_info(f"gradients are computed for one example after the other: {reason}")
            return self._one_by_one(parameters, examples)

    @property
    def _may_be_together(self) -> bool:
        has_recurrent = any(isinstance(layer, nn.RNNBase) for layer in self._in_use.modules())
        return self._in_use is not self._failed and not has_recurrent

    def _check_reach(self, parameters: dict[str, Tensor], examples: tuple[Tensor, ...]) -> None:
        """Sees once for each set of parameters whether ``torch.func`` gets to those that autograd gets to.

        Raises:
            RuntimeError: If it does not, as where a module keeps layers in a list.
        """
        if parameters.keys() == self._reached:
            return
        first = tuple(tensor[:1] for tensor in examples)
        with evaluating(self._loss.modules()):
            together, alone = self._together(parameters, first), self._one_by_one(parameters, first)
        if missed := [name for name in parameters if alone[name].any() and not together[name].any()]:
            raise RuntimeError(f"{missed[0].removeprefix('module.')} is used outside of the module that has it")
        self._reached = parameters.keys()

    def _together(self, parameters: dict[str, Tensor], examples: tuple[Tensor, ...]) -> Gradients:
        def loss(own: dict[str, Tensor], *example: Tensor) -> Any:
            return functional_call(self._loss, own, example)

        detached = {name: parameter.detach() for name, parameter in parameters.items()}
        gradients: Callable[..., Gradients] = vmap(
            grad(loss), in_dims=(None, *(0 for _ in examples)), randomness="different"
        )
        return gradients(detached, *examples)

    def _one_by_one(self, parameters: dict[str, Tensor], examples: tuple[Tensor, ...]) -> Gradients:
        found = [
            torch.autograd.grad(self._loss(*example), [*parameters.values()], allow_unused=True, materialize_grads=True)
            for example in zip(*(tensor.unbind() for tensor in examples), strict=True)
        ]
        return {name: torch.stack(of_one) for name, of_one in zip(parameters, zip(*found, strict=True), strict=True)}

    @contextmanager
    def _unchanged_state(self) -> Iterator[None]:
        before = [(name, value, value._version) for name, value in self._state().items()]
        yield
        now = self._state()
        changed = [name for name, value, version in before if now.get(name) is not value or value._version != version]
        for name in changed:  # what it has noted is not to be saved
            if (value := now.get(name)) is not None:
                value.detach().zero_()
        if changed:
            path, _, own = changed[0].removeprefix("module.").rpartition(".")
            raise UserError(
                f"{path or type(self._loss.module).__name__} changes its {own} with training examples, which no noise"
                " would hide: expected a network and a loss that keep nothing of a batch; choose another, or freeze its"
                " layer group with ProgressiveUnfreezing"
            )

    def _state(self) -> dict[str, Tensor]:
        return {**dict(self._loss.named_buffers()), **dict(self._loss.named_parameters())}


def _generators(device: torch.device) -> list[Any]:
    """Returns the modules of torch whose random numbers a network may draw."""
    return [torch.random, *([] if device.type == "cpu" else [torch.get_device_module(device)])]


def _add_clipped(total: Gradients, gradients: Gradients, clip_norm: float) -> None:
    """Adds the gradients of several examples, each scaled down to the norm, in the precision of the parameters."""
    norms = torch.stack([_norms(gradient) for gradient in gradients.values()]).norm(dim=0)
    is_finite = norms.isfinite()
    factors = (clip_norm / norms[is_finite]).clamp(max=1)
    for name, gradient in gradients.items():
        finite = gradient if is_finite.all() else gradient[is_finite]
        total[name] += torch.tensordot(factors.to(total[name].dtype), finite.to(total[name].dtype), 1)


def _norms(gradients: Tensor) -> Tensor:
    wide = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    norms: Tensor = wide.reshape(len(wide), -1).norm(dim=1)
    return norms


class _ExampleLoss(nn.Module):
    """The training loss of one example, as a module with all parameters."""

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self.module = module
        self.logits: Callable[..., Tensor] = module.__call__  # a method: as a module it would have a second name

    def forward(self, *example: Tensor) -> Tensor:
        *inputs, labels = (tensor.unsqueeze(0) for tensor in example)
        loss: Tensor = self.module.training_loss(self.logits(*inputs), labels)  # type: ignore[operator]
        return loss


@contextmanager
def evaluating(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Has layers evaluate: norm layers use their running statistics, as those of a batch would be kept."""
    training = [layer for layer in layers if layer.training]
    for layer in training:
        layer.training = False
    try:
        yield
    finally:
        for layer in training:
            layer.training = True
