"""Plans the cells of a study: pretraining, then tuning, then every strategy at every size with every seed."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import find_config, portable_name, read_yaml
from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.config import Pretraining, Study, Tuning
from lightning_transfer.study.grid import expand, flags, plain_name
from lightning_transfer.transfer.sources import checkpoint_of, split_part

Choices = dict[tuple[Arm, float | None], Any]  # the tuned value of each arm at each size
_WEIGHTS = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}
_EVERYTHING = {"data.train_fraction": 1.0}  # value that means all data, for arguments that do not accept null


class Plan:
    """Plans the cells of a study.

    Args:
        study: The study.
        logs: Folder of all experiments.
        more_seeds: Number of seeds that are added to those of the study.
    """

    def __init__(self, study: Study, logs: Path, more_seeds: int = 0) -> None:
        self.study = study
        self.logs = logs
        self.seeds = _seeds(study, more_seeds)
        self.folder = logs / study.name
        self._content, self._fingerprint = cache(_content), cache(_fingerprint)  # each file is read once
        self._names: dict[str, str] = {}  # name before cleaning, by the name of its folder
        self.variants = expand(study.overrides)
        self._strategies = {
            name: portable_name(find_config(file, "strategies")) for name, file in study.strategies.items()
        }
        trained = [
            Arm(strategy, weights, variant)
            for variant in self.variants
            for strategy, file in self._strategies.items()
            for weights in ([None] if self._takes_no_weights(file) else study.weights)
        ]
        self.arms = [*trained, *(replace(arm, is_soup=True) for arm in trained if arm.strategy in study.soups)]

    def pretraining(self) -> list[Cell]:
        """Lists the cells that make starting weights."""
        seeds = [*self.seeds, *(self.study.tuning.seeds if self.study.tuning else [])]
        return [
            self._pretraining_cell(name, seed)
            for name, source in self.study.weights.items()
            if isinstance(source, Pretraining) and any(arm.weights == name for arm in self.arms)
            for seed in (sorted(set(seeds)) if source.per_seed else [source.seed])
        ]

    def tuning(self) -> list[Cell]:
        """Lists the cells whose results choose the tuned values."""
        tuning = self.study.tuning
        if tuning is None:
            return []
        return [
            self._cell(arm, size, seed, tuning, value)
            for size in self.study.tuned_sizes
            for arm in self.arms
            if not arm.is_soup
            for value in tuning.values
            for seed in tuning.seeds
        ]

    def final(self, choices: Choices | None = None) -> list[Cell]:
        """Lists the cells that are compared: the whole table for one seed, then for the next.

        Args:
            choices: The tuned values. An arm is left out at a size where it has none. Without choices, the cells only
                serve to find folders and results, and must not be run.
        """
        untuned = self.study.tuning is None or choices is None
        choices = choices or {}
        return [
            self._soup(arm, size, seed) if arm.is_soup else self._cell(arm, size, seed, None, choices.get((arm, size)))
            for seed in self.seeds
            for size in self.study.sizes
            for arm in self.arms
            if untuned or (replace(arm, is_soup=False), size) in choices
            if not arm.is_soup or size in self.study.tuned_sizes
        ]

    @property
    def looks(self) -> tuple[int, int] | None:
        """The numbers of seeds at the first and the last look at the results; None where seeds are not added."""
        study = self.study
        return (len(study.seeds), study.until_decided) if study.until_decided is not None else None

    @property
    def grown(self) -> "Plan | None":
        """The plan with one seed more; None where no more are to be added."""
        more = len(self.seeds) - len(self.study.seeds) + 1
        if self.study.until_decided is None or len(self.seeds) >= self.study.until_decided:
            return None
        return Plan(self.study, self.logs, more)

    def label(self, arm: Arm) -> str:
        """Names an arm as briefly as the study permits."""
        from_weights = [f"from {arm.weights}"] if arm.weights and len(self.study.weights) > 1 else []
        soup_of = ["soup of"] if arm.is_soup else []
        return " ".join(
            [*soup_of, arm.strategy, *from_weights, *(f"{_short(name)}={value}" for name, value in arm.variant)]
        )

    def baseline(self, arm: Arm) -> Arm | None:
        """Finds the baseline of an arm: with the same variant, and from the same weights if it takes any."""
        found = [
            other
            for other in self.arms
            if other.strategy == self.study.baseline
            and not other.is_soup
            and other.variant == arm.variant
            and other.weights in (None, arm.weights)
        ]
        return found[0] if found and found[0] != arm else None

    def _cell(self, arm: Arm, size: float | None, seed: int, tuning: Tuning | None, value: Any) -> Cell:
        study, name = self.study, self._name_of(arm, size, seed)
        settings = {**flags(self.variants[arm.variant]), **flags(study.at_size.get(size, {}))}
        if study.size_key:
            settings[study.size_key] = _size_value(study.size_key, size)
        settings |= {key: str(seed) for key in study.seed_keys}
        if study.tuning and value is not None:
            settings |= flags({study.tuning.key: value})
        if tuning is not None:
            name = f"tune-{name}-{_short(tuning.key)}_{value}"
        arguments, content = self._source(arm, seed)
        strategy = self._strategies[arm.strategy]
        return self.fit_cell(
            name,
            configs=[*study.configs, strategy],
            # The strategy comes last, because scratch removes the starting weights again.
            arguments=[*config_flags(study.configs), *arguments, *config_flags([strategy])],
            flags={**settings, "test_after_fit": json.dumps(tuning is None)},
            weights=content,
            kind="final" if tuning is None else "tuning",
            arm=arm,
            size=size,
            seed=seed,
            value=value,
        )

    def _name_of(self, arm: Arm, size: float | None, seed: int) -> str:
        size_name = [f"size_{'all' if size is None else size}"] if self.study.size_key else []
        return "-".join([self.label(arm), *size_name, f"seed_{seed}"])

    def _soup(self, arm: Arm, size: float | None, seed: int) -> Cell:
        """Makes the cell of a soup: that of the tuning seed in the place of the seed. It takes the finished runs."""
        study, tuning, trained = self.study, self.study.tuning, replace(arm, is_soup=False)
        assert tuning is not None
        tuning_seed = tuning.seeds[self.seeds.index(seed)]
        runs = [self._cell(trained, size, tuning_seed, tuning, value) for value in tuning.values]
        name, settings = self._folder_of(self._name_of(arm, size, seed)), runs[0].settings
        options = {"recipe": "greedy", "metric": study.metric, "run_folder": str(self.folder / name)}
        options |= {"mode": study.mode} if study.mode else {}
        options |= {"trainer.devices": "1"}  # a soup is evaluated in one process
        finished = (str(run.folder) for run in runs if run.is_finished)
        return replace(
            runs[0],
            name=name,
            kind="final",
            arguments=("soup", *finished, *(f"--{option}={value}" for option, value in options.items())),
            settings={**settings, "arguments": {**settings["arguments"], tuning.key: json.dumps(tuning.values)}},
            arm=arm,
            seed=seed,
            value=None,
        )

    def _pretraining_cell(self, name: str, seed: int) -> Cell:
        source = self.study.weights[name]
        assert isinstance(source, Pretraining)
        return self.fit_cell(
            f"pretrain-{name}-seed_{seed}",
            configs=source.configs,
            arguments=config_flags(source.configs),
            flags={**flags(source.overrides), "seed_everything": str(seed)},
            weights=None,
            kind="pretraining",
            seed=seed,
        )

    def fit_cell(
        self, name: str, configs: list[str], arguments: list[str], flags: dict[str, str], weights: Any, **facts: Any
    ) -> Cell:
        """Makes the cell of a ``fit``.

        Args:
            name: Name of the cell.
            configs: Config files, whose contents are among its settings.
            arguments: Arguments of its command line for these files, and others.
            flags: Settings by dotted names, as the command line reads them.
            weights: What identifies its starting weights.
            facts: The other fields of the cell.

        Raises:
            UserError: If another cell has the same folder.
        """
        name = self._folder_of(name)
        place = {"logs": str(self.logs), "experiment": self.study.name, "version": name}
        # Only the arguments contain the study's place, so the settings stay the same if it is moved.
        given = [f"--{key}={value.replace('{study}', str(self.folder))}" for key, value in {**flags, **place}.items()]
        settings = {"configs": [self._content(file) for file in configs], "arguments": flags, "weights": weights}
        return Cell(name, self.folder, arguments=("fit", *arguments, *given), settings=settings, files=tuple(configs),
                    **facts)  # fmt: skip

    def _folder_of(self, asked: str) -> str:
        name = re.sub(r"[^\w.=-]+", "_", asked)
        if (other := self._names.setdefault(name, asked)) != asked:
            raise UserError(
                f"runs {other!r} and {asked!r} of the study would share the folder {self.folder / name}: "
                "expected names and values that differ in letters or digits, rename one"
            )
        return name

    def _source(self, arm: Arm, seed: int) -> tuple[list[str], Any]:
        """Returns the argument for the starting weights, and what identifies them."""
        source = self.study.weights[arm.weights] if arm.weights else None
        if source is None:
            return [], None
        if isinstance(source, Pretraining):
            assert arm.weights is not None
            cell = self._pretraining_cell(arm.weights, seed if source.per_seed else source.seed)
            return [f"--init_from={checkpoint_of(cell.folder)}"], cell.settings
        source = source.replace("{seed}", str(seed))
        file, part = split_part(source)
        is_file = "://" not in file and (part is not None or Path(file).suffix in _WEIGHTS)
        if is_file or Path(file).is_file():
            found = self._fingerprint(file)
            return [f"--init_from={source}"], found if part is None else {"file": found, "part": part}
        return [f"--init_from={source}"], source

    def _takes_no_weights(self, strategy: str) -> bool:
        content = self._content(strategy)
        return "init_from" in content and content["init_from"] is None


def config_flags(files: list[str]) -> list[str]:
    """Returns the options that name config files."""
    return [f"--config={file}" for file in files]


def _size_value(key: str, size: float | None) -> str:
    # The size is given even if it is the default, because the base experiment may set another.
    return json.dumps(_EVERYTHING.get(plain_name(key)) if size is None else size)


def _seeds(study: Study, more: int) -> list[int]:
    taken = {*study.seeds, *(study.tuning.seeds if study.tuning else [])}
    return [*study.seeds, *islice((seed for seed in count(max(study.seeds) + 1) if seed not in taken), more)]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _content(file: str) -> dict[str, Any]:
    content = read_yaml(find_config(file))
    return content if isinstance(content, dict) else {}


def _fingerprint(file: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"starting weights {file!r} of the study cannot be read: {error.strerror}") from error
