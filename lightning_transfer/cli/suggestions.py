"""Suggests which option or class of the command line was meant."""

import difflib
import inspect
from collections.abc import Iterable, Iterator

import lightning_transfer

_MOST = 3


def classes_for(option: str) -> list[str]:
    """Names the classes that an option takes, of this project and torch's usual optimizers; most options take none."""
    return [found.__name__ for place, found in _classes() if place == option]


def exported_classes() -> list[type]:
    """Imports the classes that this package exports. It knows them by their capitals, and imports no command."""
    return [getattr(lightning_transfer, name) for name in lightning_transfer.__all__ if name[0].isupper()]


def nearest_option(name: str, options: Iterable[str]) -> str:
    """Suggests the option that was meant by one that the command, or the class that it was given for, does not have.

    Args:
        name: The option as given, or only its last part.
        options: The options of the command, in dot notation.

    Returns:
        The end of a sentence; empty where no option is near.
    """
    owners, last = dict(arguments_of_classes()), _last_part(name)
    if last == "help":
        return ": --help lists all options"
    same = [f"{option} is an argument of {owner}" for option, owner in owners.items() if _last_part(option) == last]
    return f": {' and '.join(same[:_MOST])}" if same else nearest(name, options) or nearest(name, owners)


def nearest(name: str, options: Iterable[str]) -> str:
    """Asks which option was meant, by the words and spelling of its last part alone; empty where no option is near."""
    found = _near(_last_part(name), options)
    return f": did you mean {' or '.join(found)}?" if found else ""


def _near(last: str, options: Iterable[str]) -> list[str]:
    """Finds the options whose last part contains that word, or is spelled nearly like it."""
    places = {_last_part(option): option for option in sorted(options, reverse=True) if _last_part(option) != "help"}
    of_the_same_word = [part for part in sorted(places) if last in part.split("_")]
    near = dict.fromkeys([*of_the_same_word, *difflib.get_close_matches(last, places, _MOST, cutoff=0.7)])
    return [places[part] for part in [*near][:_MOST]]


def _last_part(option: str) -> str:
    return option.rpartition(".")[2]


def _classes() -> Iterator[tuple[str, type]]:
    """Gives the classes of this project and the usual optimizers, each with the option that takes it."""
    # The imports come late, so that a command that takes no classes reports a typo quickly.
    import lightning as L
    import torch

    from lightning_transfer.modules.view_losses import ViewLoss

    # These options take classes of these kinds. The first kind that fits counts, as a LightningModule is a Module too.
    kinds: dict[str, type] = {
        "data": L.LightningDataModule,
        "model": L.LightningModule,
        "model.optimizer": torch.optim.Optimizer,
        "trainer.callbacks": L.Callback,
        "model.loss": ViewLoss,
        "model.network": torch.nn.Module,
    }
    for found in (*exported_classes(), torch.optim.AdamW, torch.optim.SGD):
        yield from [(place, found) for place, kind in kinds.items() if issubclass(found, kind)][:1]


def arguments_of_classes() -> Iterator[tuple[str, str]]:
    """Gives the arguments of this package's classes in dot notation, each with a class that explains it."""
    for place, found in _classes():
        for base in inspect.getmro(found):
            is_ours = base.__module__.startswith(("lightning_transfer", "torch.optim"))
            if is_ours and "Args:" in (base.__doc__ or ""):
                yield from ((f"{place}.{name}", base.__name__) for name in inspect.signature(base).parameters)
