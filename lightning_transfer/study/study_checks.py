"""Checks the settings of a study, before anything is run, that would otherwise fail late or be lost."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args

from lightning_transfer.errors import UserError
from lightning_transfer.files import check_name
from lightning_transfer.run.config_files import find_config
from lightning_transfer.study.config import Halving, KeptCheckpoints, Pretraining, Study
from lightning_transfer.study.grid import expand
from lightning_transfer.study.set_once import check_set_once


def check(study: Study) -> None:
    """Checks the settings that would otherwise fail late.

    Raises:
        UserError: For empty or repeated values, unknown names, a metric whose direction must be given, and files that
            do not exist.
    """
    _check_nothing_is_null(study)
    for what, names in (("name", [study.name]), ("a strategy", study.strategies), ("a name in weights", study.weights)):
        for name in names:
            check_name(name, f"{what} of the study")
    _ = study.is_higher_better
    axes: dict[str, list[Any]] = {"sizes": study.sizes, "seeds": study.seeds}
    axes |= {"strategies": list(study.strategies), "configs": study.configs, "weights": list(study.weights)}
    if study.tuning:
        axes |= {"tuning.values": study.tuning.values, "tuning.seeds": study.tuning.seeds}
        axes |= {"tuning.sizes": study.tuned_sizes if study.tuning.sizes is None else study.tuning.sizes}
    for name, values in axes.items():
        if not values:
            raise UserError(f"{name} of the study is empty: expected at least one value")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise UserError(f"{name} of the study has a value twice: {values}")
    if study.size_key is None and study.sizes != [None]:
        raise UserError(f"size_key of the study is null: expected what its sizes {study.sizes} set, or no sizes")
    if study.baseline not in study.strategies:
        raise UserError(f"baseline {study.baseline!r} is not one of the strategies {', '.join(study.strategies)}")
    if not study.seed_keys:
        raise UserError("seed_keys of the study is empty: expected what a seed sets, such as seed_everything")
    if study.tuning and None in study.tuning.values:
        raise UserError("tuning.values has null: expected values alone, as null would leave the setting to the config")
    for size in (study.tuning.sizes or []) if study.tuning else []:
        if size not in study.sizes:
            raise UserError(f"tuning.sizes has {size}, which is not one of the study's sizes {study.sizes}")
    for seed in study.tuning.seeds if study.tuning else []:
        if seed in study.seeds:
            raise UserError(f"tuning.seeds has {seed}, which is also a seed of the study: tune with others")
    if (kept := study.keep_checkpoints) not in get_args(KeptCheckpoints):
        raise UserError(f"keep_checkpoints is {kept}: expected {', '.join(get_args(KeptCheckpoints))}")
    if study.soups:
        _check_soups(study)
    if study.tuning and study.tuning.halving:
        _check_halving(study.tuning.halving, study)
    for size, changes in study.at_size.items():
        if size not in study.sizes:
            raise UserError(
                f"at_size has {'null' if size is None else size}, which is not one of the study's sizes {study.sizes}"
            )
        if () not in expand(changes):
            raise UserError(f"at_size {size} has a grid: move it to overrides, where it holds for all sizes")
    if study.until_decided is not None and study.until_decided <= len(study.seeds):
        seeds = f"the {len(study.seeds)} seeds of the study"
        raise UserError(f"until_decided is {study.until_decided}: expected more than {seeds}, or null")
    if study.threads is not None and study.threads < 1:
        raise UserError(f"threads is {study.threads}: expected 1 or more")
    pretrainings = [source for source in study.weights.values() if isinstance(source, Pretraining)]
    for file in [*study.configs, *(file for source in pretrainings for file in source.configs)]:
        find_config(file)
    for file in study.strategies.values():
        find_config(file, "strategies")
    check_set_once(study)


def _check_soups(study: Study) -> None:
    """Refuses soups without whole runs of one training set to average, or without one for each seed to compare."""
    tuning, seeds = study.tuning, study.until_decided or len(study.seeds)
    for name in study.soups:
        if name not in study.strategies:
            raise UserError(f"soups has {name!r}, which is not one of the strategies {', '.join(study.strategies)}")
    if tuning is None or len(tuning.values) < 2:
        raise UserError("soups are means of tuning runs: expected a tuning with 2 or more values, or no soups")
    if study.keep_checkpoints != "all":
        raise UserError(
            f"keep_checkpoints is {study.keep_checkpoints}: expected all with soups, which are made of them"
        )
    if tuning.halving:
        raise UserError("soups are means of whole tuning runs: leave tuning.halving out, or the soups")
    if len(tuning.seeds) < seeds:
        raise UserError(
            f"tuning.seeds has {len(tuning.seeds)}, and a soup is of one of them: expected {seeds}, one for each seed"
            " of the study, or no soups"
        )


def _check_halving(halving: Halving, study: Study) -> None:
    if halving.reduction < 2:
        raise UserError(f"tuning.halving.reduction is {halving.reduction}: expected 2 or more")
    if not 0 < halving.first < 1:
        raise UserError(f"tuning.halving.first is {halving.first}: expected a share between 0 and 1")
    if halving.finalists < 1:
        raise UserError(f"tuning.halving.finalists is {halving.finalists}: expected 1 or more")
    for strategy, share in halving.first_of.items():
        if strategy not in study.strategies:
            known = ", ".join(study.strategies)
            raise UserError(f"tuning.halving.first_of names {strategy}: expected one of the strategies {known}")
        if not halving.first <= share < 1:
            raise UserError(
                f"tuning.halving.first_of {strategy} is {share}: expected at least first, {halving.first}, and below 1"
            )
    assert study.tuning is not None
    if len(study.tuning.values) < 2:
        raise UserError("tuning.values has 1 candidate: expected 2 or more with halving, or leave tuning.halving out")


def _check_nothing_is_null(study: Study) -> None:
    """Refuses null where it has no meaning: the parser accepts it, and YAML reads a name without a value as null."""
    parts: dict[str, Any] = {"": study, "tuning.": study.tuning}
    parts["tuning.halving."] = study.tuning.halving if study.tuning else None
    parts |= {f"weights.{name}.": source for name, source in study.weights.items()}
    for prefix, part in parts.items():
        for setting in fields(part) if is_dataclass(part) else ():
            if getattr(part, setting.name) is None and type(None) not in get_args(setting.type):
                raise UserError(f"{prefix}{setting.name} of the study is null: give a value, or leave the line out")
