"""What a study asks: the fields of its YAML file."""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.study.grid import expand

if TYPE_CHECKING:
    Settings = dict[str, Any]
else:  # without types of its values: in a dict[str, Any] the parser would check the classes that the values name
    Settings = dict

STRATEGIES = ("scratch", "linear_probe", "full", "full_discriminative", "gradual", "gradual_discriminative")


@dataclass
class Pretraining:
    """An experiment that makes starting weights: run by the study before anything else, once for each seed it needs.

    Args:
        configs: Files of the experiment, composed in this order.
        overrides: What to change in it, nested or by dotted names.
        per_seed: Whether every seed of the study starts from a pretraining of its own, at the same seed. The intervals
            then include the luck of pretraining.
        seed: The seed of the one pretraining otherwise.
    """

    configs: list[str]
    overrides: Settings = field(default_factory=dict)
    per_seed: bool = False
    seed: int = 0


@dataclass
class Tuning:
    """The choice of one value, by default the learning rate, for each strategy and size: by validation, never by test.

    Args:
        values: The candidates, the same list for everyone.
        key: What is chosen.
        seeds: Seeds of the tuning runs; with several, the mean over them decides.
        sizes: Sizes at which to tune, all if not given. Any other size takes the choice of the nearest in the list.
    """

    values: list[Any]
    key: str = "model.init_args.optimizer.init_args.lr"
    seeds: list[int] = field(default_factory=lambda: [1000])
    sizes: list[int | float | None] | None = None


@dataclass
class Study:
    """Every strategy at every size with every seed, from each of the starting weights.

    Args:
        name: Name of the study, and of its folder under logs.
        configs: Files of the base experiment, composed in this order.
        weights: Starting weights by name: a file or anything else that ``--init_from`` takes, ``{seed}`` in it standing
            for the seed; or a pretraining to be run first.
        strategies: Config file of each strategy by its name. One that sets ``init_from: null`` is run once, not once
            for each of the starting weights.
        sizes: Sizes of the training set, null for all there is. At one seed, a smaller set is part of a larger one.
        at_size: What else to change at a size, nested or by dotted names: fewer epochs on a larger training set, say.
        size_key: What the sizes set: data.examples_per_class, data.train_fraction, or any other argument. Null leaves
            the size to the base experiment.
        seeds: Seeds, shared by all strategies: their results are compared pair by pair.
        seed_keys: What a seed sets: the run's seed, and by default the draw of the training set and the hold-out too.
        baseline: The strategy that the others are compared with.
        tuning: How the learning rate is chosen; without it the base experiment's is used by all.
        overrides: What to change in the base experiment, nested or by dotted names. A leaf ``{grid: [a, b]}`` runs the
            study with each of its values; ``{study}`` in a value stands for the study's folder.
        metric: What is compared and tuned for: the name after ``test/`` and ``val/``.
        mode: Whether a lower (min) or a higher (max) value of the metric is better. It follows from most names, such as
            accuracy and loss, and is asked for where it does not.
        threads: CPU threads of each cell; by default the cores divided by the workers. A fixed number gives the same
            figures with any number of workers.
        slurm: Parameters of the jobs with ``--launcher slurm``, as submitit names them: slurm_partition, timeout_min,
            cpus_per_task, gpus_per_node, slurm_array_parallelism, ...; and cells_per_job, 1 by default, how many runs
            a job does one after another.
    """

    name: str
    configs: list[str]
    weights: dict[str, str | Pretraining | None] = field(default_factory=lambda: {"none": None})
    strategies: dict[str, str] = field(
        default_factory=lambda: {name: f"configs/strategies/{name}.yaml" for name in STRATEGIES}
    )
    sizes: list[int | float | None] = field(default_factory=lambda: [None])
    at_size: dict[int | float, Settings] = field(default_factory=dict)
    size_key: str | None = "data.examples_per_class"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    seed_keys: list[str] = field(default_factory=lambda: ["seed_everything", "data.split_seed"])
    baseline: str = "scratch"
    tuning: Tuning | None = None
    overrides: Settings = field(default_factory=dict)
    metric: str = "accuracy"
    mode: Direction | None = None
    threads: int | None = None
    slurm: Settings = field(default_factory=dict)

    @property
    def is_higher_better(self) -> bool:
        """Whether a higher value of the metric is better.

        Raises:
            UserError: Where the name of the metric does not say, and another direction is given than it says.
        """
        return decide_direction(self.metric, self.mode, "mode of the study") == "max"


def check(study: Study) -> None:
    """Checks what would otherwise fail late.

    Raises:
        UserError: For empty or repeated values, unknown names, a metric whose direction has to be given, and files
            that do not exist.
    """
    _check_nothing_is_null(study)
    _ = study.is_higher_better
    axes: dict[str, list[Any]] = {"sizes": study.sizes, "seeds": study.seeds}
    axes |= {"strategies": list(study.strategies), "configs": study.configs, "weights": list(study.weights)}
    if study.tuning:
        axes |= {"tuning.values": study.tuning.values, "tuning.seeds": study.tuning.seeds}
        axes |= {"tuning.sizes": study.tuning.sizes or study.sizes}
    for name, values in axes.items():
        if not values:
            raise UserError(f"{name} of the study is empty: give at least one")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise UserError(f"{name} of the study has a value twice: {values}")
    if study.size_key is None and study.sizes != [None]:
        raise UserError(f"size_key of the study is null: expected what its sizes {study.sizes} set, or no sizes")
    if study.baseline not in study.strategies:
        raise UserError(f"baseline {study.baseline!r} is not one of the strategies {', '.join(study.strategies)}")
    for size in (study.tuning.sizes or []) if study.tuning else []:
        if size not in study.sizes:
            raise UserError(f"tuning.sizes has {size}, which is not one of the study's sizes {study.sizes}")
    for seed in study.tuning.seeds if study.tuning else []:
        if seed in study.seeds:
            raise UserError(f"tuning.seeds has {seed}, which is also a seed of the study: tune with others")
    for size, changes in study.at_size.items():
        if size not in study.sizes:
            raise UserError(f"at_size has {size}, which is not one of the study's sizes {study.sizes}")
        if () not in expand(changes):
            raise UserError(f"at_size {size} has a grid: move it to overrides, where it is of all sizes")
    if study.threads is not None and study.threads < 1:
        raise UserError(f"threads is {study.threads}: expected 1 or more")
    pretrainings = [source for source in study.weights.values() if isinstance(source, Pretraining)]
    files = [*study.configs, *study.strategies.values(), *(file for source in pretrainings for file in source.configs)]
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"config {file!r} of the study does not exist: give its path from {Path.cwd()}")


def _check_nothing_is_null(study: Study) -> None:
    """Refuses null where it means nothing: the parser lets it pass, and YAML makes it of a name without a value."""
    parts: dict[str, Any] = {"": study, "tuning.": study.tuning}
    parts |= {f"weights.{name}.": source for name, source in study.weights.items()}
    for prefix, part in parts.items():
        for setting in fields(part) if is_dataclass(part) else ():
            if getattr(part, setting.name) is None and type(None) not in get_args(setting.type):
                raise UserError(f"{prefix}{setting.name} of the study is null: give a value, or leave the line out")
