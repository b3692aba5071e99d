"""Which option or class of the command line was meant."""

import difflib
import inspect
from collections.abc import Iterable, Iterator

import lightning as L
import torch
from torch import nn

import lightning_transfer

# Where the command line takes classes, and of which kind; a LightningModule is a Module too.
_KINDS: dict[str, type] = {
    "data": L.LightningDataModule,
    "model": L.LightningModule,
    "model.optimizer": torch.optim.Optimizer,
    "trainer.callbacks": L.Callback,
    "model.network": nn.Module,
}
_MOST = 3


def classes_for(option: str) -> list[str]:
    """Names the classes of this project, and of torch the most usual optimizers, that an option takes; mostly none."""
    return [found.__name__ for place, found in _classes() if place == option]


def nearest_option(name: str, options: Iterable[str]) -> str:
    """Says which option was meant by one that the command, or the class that it was given for, does not have.

    Args:
        name: As given, or only its last part.
        options: Those of the command, in dot notation.

    Returns:
        The end of a sentence; nothing where none is near.
    """
    owners, last = dict(_arguments()), _last_part(name)
    if last == "help":
        return ": --help lists all options"
    same = [f"{option} is an argument of {owner}" for option, owner in owners.items() if _last_part(option) == last]
    if same:
        return f": {' and '.join(same[:_MOST])}"
    found = _near(last, options) or _near(last, owners)
    return f": did you mean {' or '.join(found)}?" if found else ""


def _near(last: str, options: Iterable[str]) -> list[str]:
    """Finds the options whose last part has that word, or is spelled nearly as it."""
    places = {_last_part(option): option for option in sorted(options, reverse=True) if _last_part(option) != "help"}
    of_the_same_word = [part for part in sorted(places) if last in part.split("_")]
    near = dict.fromkeys([*of_the_same_word, *difflib.get_close_matches(last, places, _MOST, cutoff=0.7)])
    return [places[part] for part in [*near][:_MOST]]


def _last_part(option: str) -> str:
    return option.rpartition(".")[2]


def _classes() -> Iterator[tuple[str, type]]:
    exported = [getattr(lightning_transfer, name) for name in lightning_transfer.__all__]
    for found in (*filter(inspect.isclass, exported), torch.optim.AdamW, torch.optim.SGD):
        yield next(place for place, kind in _KINDS.items() if issubclass(found, kind)), found


def _arguments() -> Iterator[tuple[str, str]]:
    """The arguments of those classes in dot notation, each with a class that has it."""
    for place, found in _classes():
        for base in inspect.getmro(found):
            if base.__module__.startswith(("lightning_transfer", "torch.optim")):
                yield from ((f"{place}.{name}", base.__name__) for name in inspect.signature(base).parameters)
