"""Refuses a study that sets one thing in two places: one of them would be lost, and the report would still name it."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import find_config, read_yaml
from lightning_transfer.study.config import Study
from lightning_transfer.study.grid import expand, flags


def check_set_once(study: Study) -> None:
    """Checks that the settings of all cells do not undo each other.

    A setting of ``at_size`` may also be among the overrides, as its value at all other sizes.

    Raises:
        UserError: If a setting has two places, or undoes what a strategy sets.
    """
    variants = expand(study.overrides)
    grid = {_plain(name) for variant in variants for name, _ in variant}
    overrides = {name for changes in variants.values() for name in flags(changes)}
    at_size = {name for changes in study.at_size.values() for name in flags(changes)}
    places = {
        "overrides": overrides,
        "at_size": at_size,
        "size_key": {study.size_key} if study.size_key else set(),
        "seed_keys": {*study.seed_keys},
        "tuning.key": {study.tuning.key} if study.tuning else set(),
    }
    known: dict[str, str] = {}
    for place, names in places.items():
        for name, plain in ((name, _plain(name)) for name in sorted(names)):
            first = known.setdefault(plain, place)
            if first != place and not ((first, place) == ("overrides", "at_size") and plain not in grid):
                raise UserError(
                    f"{name} is set by {first} and by {place} of the study: expected one of them, as only one counts"
                )
    for place in ("overrides", "at_size"):
        for name in sorted(places[place]):
            _check_beside_strategies(study, place, name, is_grid=_plain(name) in grid)


def _check_beside_strategies(study: Study, place: str, name: str, is_grid: bool) -> None:
    """Refuses a setting that comes after the strategies and undoes what makes them differ."""
    plain = _plain(name)
    if plain == "init_from":
        raise UserError(f"init_from is set by {place} of the study: expected it in weights, which a strategy may leave")
    if plain == "trainer.callbacks":
        raise UserError(
            f"trainer.callbacks is set by {place} of the study, which would take away those of the strategies: expected"
            " trainer.callbacks+, which adds to them"
        )
    for strategy, own in _settings_of(study):
        if plain in own and not is_grid and not plain.endswith("+"):
            raise UserError(
                f"{name} is set by {place} of the study and by its strategy {strategy}, which would lose it: expected"
                " it in the strategies alone, or as a grid"
            )


def _settings_of(study: Study) -> Iterator[tuple[str, set[str]]]:
    """Names the settings of each strategy's config."""
    for strategy, file in study.strategies.items():
        content: Any = read_yaml(find_config(file, "strategies"))
        yield strategy, {_plain(name) for name in flags(content)} if isinstance(content, Mapping) else set()


def _plain(name: str) -> str:
    """Writes the name of a setting as its shorter form, without the parts ``init_args``."""
    return ".".join(part for part in name.split(".") if part != "init_args")
