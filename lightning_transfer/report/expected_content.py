"""What a page reads in the files of a run, by name and type. What is of another type is left out, and said."""

import math
import textwrap
import types
from dataclasses import is_dataclass
from typing import Any, NewType, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.figures import ConfusionMatrix, Reliability, Timeline

Count = NewType("Count", int)  # of examples, from 0
Number = NewType("Number", float)  # which may be infinite, or not a number
_MOST = 2**53  # whole numbers up to it are exact as real ones
_LARGEST = 1e30  # figures can be drawn of numbers below it
_SHORT = 60  # characters


class Unfreezing(TypedDict, total=False):
    """How far the phases of a run came."""

    because: str | None
    never_trained: list[str]


class Facts(TypedDict, total=False):
    """What a run knows of its data."""

    train_examples: Count
    validation_examples: Count
    test_examples: Count
    test_examples_in_training_split: Count
    training_examples_by_class: dict[str, int]


class Results(TypedDict, total=False):
    """The record of a run."""

    test: dict[str, float] | None
    validation: dict[str, float] | None
    validations: list[dict[str, Number]]
    selected_by: str | None
    data: Facts | None
    seed: int | None
    epochs: int
    fit_seconds: float
    init_from: str | None
    command: str | None
    unfreezing: Unfreezing | None


class Hyperparameters(TypedDict, total=False):
    """The settings of a run that a table shows."""

    strategy: str | None
    seed: int | None


class Card(TypedDict):
    """How a run is repeated."""

    commands: list[str]
    versions: dict[str, str]
    commit: str | None
    plan: str
    configuration: str


class TopLoss(TypedDict):
    """An example with a high loss; a picture has no text."""

    label: str
    prediction: str
    confidence: float
    loss: float
    text: NotRequired[str]


class Tokens(TypedDict):
    """An example whose tokens have scores."""

    tokens: list[str]
    scores: list[float]
    prediction: str
    label: str


# Data in event files, by tag.
DATA: dict[str, Any] = {
    "run/hyperparameters": Hyperparameters,
    "run/facts": Facts,
    "run/card_data": Card,
    "phase/timeline_data": Timeline,
    "change/layer_groups_data": LayerGroupChanges,
    "validation/confusion_matrix_data": ConfusionMatrix,
    "validation/reliability_data": Reliability,
    "validation/top_losses_data": list[TopLoss],
    "attribution/tokens_data": list[Tokens],
}


def expected(content: Any, kind: Any, name: str, wrong: list[str]) -> Any:
    """Leaves out what is of another type than expected.

    A data class, a typed dictionary with required entries and a list are left out as a whole.

    Args:
        content: Plain types, as JSON has them.
        kind: The type: a class, a typed dictionary, a data class, or a list, tuple, dictionary or union of such.
        name: What the content is called.
        wrong: Gets a few words on each part that is of another type.

    Returns:
        The content without these parts, or None. Entries of which no type is known stay.
    """
    if get_origin(kind) in (Union, types.UnionType):
        if content is None:
            return None
        [kind] = (choice for choice in get_args(kind) if choice is not type(None))
    parts = _parts_of(content, kind)
    if parts is None:
        if _is_of(content, kind):
            return content
        wrong.append(f"{name} is {textwrap.shorten(repr(content), _SHORT, placeholder=' ...')}")
        return None
    before, kept = len(wrong), {}
    needed = kind.__required_keys__ if is_typeddict(kind) else ()
    wrong += [f"{name} has no {key}" for key in sorted(needed) if key not in content]
    for key, part, of in parts:
        count = len(wrong)
        found = expected(part, of, f"{name}.{key}", wrong)
        if found is not None or len(wrong) == count:
            kept[key] = found
    is_open = get_origin(kind) is dict or (is_typeddict(kind) and not needed)
    if len(wrong) > before and not is_open:
        return None
    return [*kept.values()] if isinstance(content, list) else kept


def _parts_of(content: Any, kind: Any) -> list[tuple[Any, Any, Any]] | None:
    """Gives the key, the content and the type of each part; None where the content is none that has such parts."""
    container = get_origin(kind)
    if isinstance(content, dict) and (container is dict or is_typeddict(kind) or is_dataclass(kind)):
        of_all = get_args(kind)[1] if container is dict else Any
        hints = {} if container is dict else get_type_hints(kind)
        return [(key, part, hints.get(key, of_all)) for key, part in content.items()]
    if isinstance(content, list) and container in (list, tuple):
        kinds = get_args(kind) * (len(content) if container is list else 1)
        if len(kinds) == len(content):
            return [*zip(range(len(content)), content, kinds, strict=True)]
    return None


def _is_of(content: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is str:
        return isinstance(content, str)
    if isinstance(content, bool) or not isinstance(content, int | float):
        return False
    if kind in (int, Count):
        return isinstance(content, int) and (0 if kind is Count else -_MOST) <= content <= _MOST
    if kind is Number and isinstance(content, float) and not math.isfinite(content):
        return True
    return kind in (float, Number) and -_LARGEST < content < _LARGEST
