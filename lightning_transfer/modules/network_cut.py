"""Runs a network up to one of its layer groups, or from there on."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_transfer.errors import UserError
from lightning_transfer.modules.feature_axes import axes_of_features, changed_inputs, is_close
from lightning_transfer.modules.stand_ins import COMPUTED, features_at_once, shapes, stand_in, stream, without_numbers
from lightning_transfer.networks.trial_passes import trial_pass


class _LowerPart(NamedTuple):
    """What happens below the cut for inputs of some shapes: the outermost calls, with outputs on no device."""

    calls: list[tuple[nn.Module, Any]]
    next_module: nn.Module  # the first of an upper group; it is given the features


class NetworkCut:
    """Cuts a network in two: its lower layer groups, and what follows.

    No network has to say how. It runs until the first module of an upper group is called: what this one is given are
    the features. To go on from features, the network runs once more from its beginning. The modules of the lower groups
    then compute nothing but give NaN in the right shapes, and the features take the place of what comes of that. All
    else runs as always, such as masks and positions.

    Args:
        network: The network.
        forward: Computes the logits from the inputs by way of the network.
        name: The lowest of the upper layer groups.
        below: The modules of the lower layer groups.
        above: The modules of the upper layer groups.

    Attributes:
        below: The modules of the lower layer groups.
    """

    def __init__(
        self, network: nn.Module, forward: Any, name: str, below: Iterable[nn.Module], above: Iterable[nn.Module]
    ) -> None:
        self.network, self.forward, self.name = network, forward, name
        self.below, self._above = [*below], [*above]
        self._parts: dict[Any, _LowerPart] = {}  # by mode and shapes of the inputs
        self._same_for_all: set[int] = set()  # numbers of calls whose output does not depend on the examples
        self._axes: tuple[int, ...] = ()  # of the features: of the batch, and of time if there is one
        self._size: torch.Size = torch.Size()  # the others
        self._end: nn.Module | None = None  # turns features into logits, where a module does

    # ---- up to the cut ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    @trial_pass()
    def features(self, inputs: tuple[Tensor, ...], notes_calls: bool = True) -> Tensor:
        """Computes what the upper groups are given.

        Args:
            inputs: The inputs of the network.
            notes_calls: Whether to note what is called below, for logits of inputs of these shapes.

        Returns:
            float [batch, time, ...]; time is 1 where the features of an example do not grow with its length.

        Raises:
            UserError: If they are not those of the examples, or of their tokens.
        """
        return self._arranged(self._run_below(inputs, notes_calls), inputs)

    def _arranged(self, given: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        number = len(self._axes)
        features = given.movedim(self._axes, (0, 1)[:number])
        if not number or features.shape != inputs[0].shape[:number] + self._size:
            raise self.refusal(f"it is given {[*given.shape]} for inputs of {[*inputs[0].shape]}")
        return features if self.has_time else features.unsqueeze(1)

    def _run_below(self, inputs: tuple[Tensor, ...], notes_calls: bool = True) -> Tensor:
        calls: list[tuple[nn.Module, Any]] = []
        depth = 0

        def enter_below(*_: Any) -> None:
            nonlocal depth
            depth += 1

        def leave_below(module: nn.Module, _: Any, output: Any) -> None:
            nonlocal depth
            depth -= 1
            if not depth:
                calls.append((module, tree_map_only(Tensor, without_numbers, output)))

        def enter_above(module: nn.Module, arguments: Any, keywords: Any) -> None:
            raise _ReachedCut(module, stream(arguments, keywords))

        noted = self.below if notes_calls else []
        hooks = [
            *(module.register_forward_pre_hook(enter_below) for module in noted),
            *(module.register_forward_hook(leave_below) for module in noted),
            *(module.register_forward_pre_hook(enter_above, with_kwargs=True) for module in self._above),
        ]
        try:
            with _eager():
                self.forward(*inputs)
        except _ReachedCut as reached:
            if reached.stream is None:
                raise self.refusal("it is given no features") from None
            if notes_calls:
                self._parts[self._key(inputs)] = _LowerPart(calls, reached.module)
            return reached.stream
        finally:
            for hook in hooks:
                hook.remove()
        raise self.refusal("it is never called")

    # ---- from the cut on --------------------------------------------------------------------------------------------

    def logits(self, features: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """Computes the logits, float [batch, classes].

        Args:
            features: As :meth:`features` gives them; what they are beyond the length of an example does not matter.
            inputs: The inputs of the network.
        """
        given = features if self.has_time else features.squeeze(1)
        given = given.movedim((0, 1)[: len(self._axes)], self._axes)
        logits: Tensor
        if self._end is not None:
            logits = self._end(given)
            return logits
        if self._key(inputs) not in self._parts:
            self.features(inputs)
        part = self._parts[self._key(inputs)]
        hook = part.next_module.register_forward_pre_hook(features_at_once(given), with_kwargs=True)
        try:
            with _eager(), self._nothing_computed_below(part, given.device):
                logits = self.forward(*inputs)
        finally:
            hook.remove()
        return logits

    @contextmanager
    def _nothing_computed_below(self, part: _LowerPart, device: torch.device) -> Iterator[None]:
        outputs: dict[nn.Module, list[Any]] = defaultdict(list)
        for number, (module, output) in enumerate(part.calls):
            outputs[module].append(COMPUTED if number in self._same_for_all else output)
        own = {module: vars(module).get("forward") for module in outputs}
        for module, known in outputs.items():
            module.forward = stand_in(module.forward, known, device)
        try:
            yield
        finally:
            for module, forward in own.items():
                del module.forward
                if forward is not None:
                    module.forward = forward

    @property
    def end(self) -> nn.Module | None:
        """The module that turns features [batch, ...] into logits, as a head does; None where none alone does."""
        return self._end if self._axes == (0,) else None

    # ---- whether it may be cut here ---------------------------------------------------------------------------------

    @property
    def has_time(self) -> bool:
        """Whether the features of an example grow with its length."""
        return len(self._axes) > 1

    def _key(self, inputs: tuple[Tensor, ...]) -> Any:
        return self.network.training, *(tensor.shape for tensor in inputs)

    def refusal(self, reason: str) -> UserError:
        """Makes the error that says why the network cannot be cut here."""
        return UserError(
            f"model.cache_features cannot cut {type(self.network).__name__} before {self.name}, as {reason}: leave it"
            " off, or freeze all below the head with configs/strategies/linear_probe.yaml"
        )

    @trial_pass()
    def check(self, inputs: tuple[Tensor, ...], is_text: bool) -> Tensor:
        """Finds out, in evaluation mode, what the features are like, and that the network's output follows from them.

        Args:
            inputs: Some inputs of the network.
            is_text: Whether they are token ids, int64 [batch, time], and the lengths of the texts.

        Returns:
            Their features.

        Raises:
            UserError: If the network cannot be cut here.
        """
        with torch.enable_grad():  # nothing is trained below, so there must be nothing to compute gradients of
            given = self._run_below(inputs)
        if given.requires_grad:
            raise self.refusal("it is given what trained weights take part in")
        others = changed_inputs(inputs, is_text)
        other_given = self._run_below(others)
        part, other_part = self._parts[self._key(inputs)], self._parts[self._key(others)]
        pairs = zip(part.calls, other_part.calls, strict=False)
        self._same_for_all = {number for number, pair in enumerate(pairs) if shapes(pair[0][1]) == shapes(pair[1][1])}
        self._axes = axes_of_features(given.shape, other_given.shape, inputs[0].shape, others[0].shape)
        self._size = given.movedim(self._axes, (0, 1)[: len(self._axes)]).shape[len(self._axes) :]
        features = self._arranged(given, inputs)
        output = self._whole(part.next_module, inputs)
        try:
            is_same = is_close(self.logits(features, inputs), output)
        except RuntimeError:  # code that is meant for other numbers than NaN may fail
            is_same = False
        if not is_same:
            raise self.refusal("what follows needs more than the first tensor that it is given")
        return features

    def _whole(self, next_module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Computes the network's output, and notes whether the next module, given nothing else, gives that."""
        seen: list[tuple[int, Any]] = []
        hook = next_module.register_forward_hook(
            lambda _, given, named, output: seen.append((len(given) + len(named), output)), with_kwargs=True
        )
        try:
            with _eager():
                output: Tensor = self.forward(*inputs)
        finally:
            hook.remove()
        is_end = {*self._above} <= {*next_module.modules()} and [(n, id(o)) for n, o in seen] == [(1, id(output))]
        self._end = next_module if is_end else None
        return output


class _ReachedCut(Exception):  # noqa: N818  # no error, but the way out of a forward
    def __init__(self, module: nn.Module, stream: Tensor | None) -> None:
        super().__init__()
        self.module, self.stream = module, stream


def _eager() -> Any:
    return torch.compiler.set_stance("force_eager")  # what is compiled sees no later hook
