"""Refuses a study that sets one thing in two places: one of them would be lost, and the report would still name it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import find_config, read_yaml
from lightning_transfer.study.config import Pretraining, Study
from lightning_transfer.study.grid import expand, flatten, leaves, plain_name

# What the study itself says of each of its runs.
_OWN = {"test_after_fit", "logs", "experiment", "version"}


def check_set_once(study: Study) -> None:
    """Checks that the settings of all cells do not undo each other.

    A setting of ``at_size`` may also be among the overrides, as its value at all other sizes.

    Raises:
        UserError: If a setting has two places, or undoes what a strategy sets.
    """
    variants = expand(study.overrides)
    for settings in variants.values():
        _check_not_twice("overrides", settings)
    for settings in study.at_size.values():
        _check_not_twice("at_size", settings)
    values = Counter(name for name, _ in {*chain.from_iterable(variants)})
    # A single value is no grid: transfer writes all its overrides so.
    grid = {plain_name(name) for name, number in values.items() if number > 1}
    places = {
        "overrides": _names(variants.values()),
        "at_size": _names(study.at_size.values()),
        "size_key": {study.size_key} if study.size_key else set(),
        "seed_keys": {*study.seed_keys},
        "tuning.key": {study.tuning.key} if study.tuning else set(),
    }
    _check_places(places, grid)
    for source, weights in study.weights.items():
        if isinstance(weights, Pretraining) and "seed_everything" in _names([weights.overrides]):
            raise UserError(
                f"seed_everything is set by overrides of the weights {source}: expected it as their seed, or per_seed"
            )
    own = dict(_settings_of(study))
    for place in ("overrides", "at_size"):
        for name in sorted(places[place]):
            _check_beside_strategies(own, place, name, is_grid=_is_below(plain_name(name), grid))


def _check_places(places: Mapping[str, set[str]], grid: set[str]) -> None:
    """Refuses a setting that two places set, unless its value at a size is an exception from an override."""
    known: dict[str, str] = {}
    for place, names in places.items():
        for name in sorted(names):
            plain = plain_name(name)
            first = known.setdefault(plain, place)
            is_exception = (first, place) == ("overrides", "at_size") and not _is_below(plain, grid)
            is_exception &= not plain.endswith("+")  # the one would be added without the other
            if first != place and not is_exception:
                raise UserError(
                    f"{name} is set by {first} and by {place} of the study: expected one of them, as only one counts"
                )


def _check_beside_strategies(own: Mapping[str, set[str]], place: str, name: str, is_grid: bool) -> None:
    """Refuses a setting that the study sets itself, or that would undo what makes the strategies differ."""
    plain = plain_name(name)
    if plain in _OWN:
        raise UserError(
            f"{name} is set by {place} of the study: expected it nowhere, as the study sets it for each run"
        )
    if plain == "init_from":
        raise UserError(
            f"init_from is set by {place} of the study: expected it as starting weights (weights, or --source of"
            " transfer), which a strategy may leave"
        )
    for strategy, settings in own.items():
        has_own = any(_is_below(each.removesuffix("+"), {"trainer.callbacks"}) for each in settings)
        if _is_below(plain, {"trainer.callbacks"}) and has_own:
            raise UserError(
                f"trainer.callbacks is set by {place} of the study, which would take away those of the strategy"
                f" {strategy}: expected trainer.callbacks+, which adds to them"
            )
        if plain in settings and not is_grid and not plain.endswith("+"):
            raise UserError(
                f"{name} is set by {place} of the study and by its strategy {strategy}, which would lose it: expected"
                " it in the strategies alone, or as a grid"
            )


def _settings_of(study: Study) -> Iterator[tuple[str, set[str]]]:
    """Names the settings of each strategy's config, in their shorter form."""
    for strategy, file in study.strategies.items():
        content: Any = read_yaml(find_config(file, "strategies"))
        yield strategy, {plain_name(name) for name in _names([content] if isinstance(content, Mapping) else [])}


def _names(settings: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names all settings, those within a class too, and the class by what it is for. What is added to a list is one."""
    return {
        f"{name.partition('+')[0]}+" if "+" in name else name.removesuffix(".class_path")
        for each in settings
        for name in flatten(dict(each))
        if name  # what sets nothing is flattened to an empty name
    }


def _check_not_twice(place: str, settings: Mapping[str, Any]) -> None:
    """Refuses a setting that one place writes in two ways, such as with its parents' names and without."""
    names = Counter(plain_name(name) for name, _ in leaves(settings))
    if twice := [name for name, times in names.items() if times > 1]:
        raise UserError(f"{twice[0]} is set twice by {place} of the study: expected it once, as only one counts")


def _is_below(name: str, names: Iterable[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in names)
