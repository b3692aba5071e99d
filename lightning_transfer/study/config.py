"""The settings of a study: the fields of its YAML file, and their checks."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_name
from lightning_transfer.run.config_files import find_config
from lightning_transfer.study.grid import expand

if TYPE_CHECKING:
    Settings = dict[str, Any]
else:  # has no value types: in a dict[str, Any] the parser would check the classes that the values name
    Settings = dict

KeptCheckpoints = Literal["all", "best", "none"]
STRATEGIES = ("scratch", "linear_probe", "full", "full_discriminative", "gradual", "gradual_discriminative")


@dataclass
class Pretraining:
    """An experiment that makes starting weights. The study runs it first, once for each seed that it needs.

    Args:
        configs: Config files of the experiment, or their names, composed in this order.
        overrides: Settings that it changes, nested or by dotted names.
        per_seed: Whether every seed of the study starts from a pretraining of its own, at the same seed. The intervals
            then include the variation between pretrainings.
        seed: Seed of the only pretraining, if ``per_seed`` is false.
    """

    configs: list[str]
    overrides: Settings = field(default_factory=dict)
    per_seed: bool = False
    seed: int = 0


@dataclass
class Halving:
    """Stops the worse candidates early: successive halving, on equal terms for each strategy and size.

    All candidates train for a first share of their training. Then the best go on from their checkpoints, for a longer
    share, until few are left, which train to the end. The best checkpoint so far decides. What a candidate does in its
    share is what it does in a whole training, with the learning rates of that.

    Args:
        reduction: After each share, one of so many candidates goes on.
        first: The first share, between 0 and 1. It ends with the first validation at or after it. Each later share is
            ``reduction`` times as long.
        finalists: Number of candidates that train to the end. With 1 the last one has won before, and does not.
    """

    reduction: int = 3
    first: float = 0.2
    finalists: int = 2


@dataclass
class Tuning:
    """Chooses a value, by default the learning rate, for each strategy and size: by validation, never by test.

    Args:
        values: The candidates, the same for all strategies and sizes.
        key: Dotted name of the setting that is chosen.
        seeds: Seeds of the tuning runs. The mean over them decides.
        sizes: Sizes at which to tune, all if not given. Any other size takes the choice of the nearest in the list.
        halving: How to stop candidates early that are worse. Without it, each trains to its end.
    """

    values: list[Any]
    key: str = "model.init_args.optimizer.init_args.lr"
    seeds: list[int] = field(default_factory=lambda: [1000])
    sizes: list[int | float | None] | None = None
    halving: Halving | None = None


@dataclass
class Study:
    """Compares every strategy at every size with every seed, from each of the starting weights.

    Args:
        name: Name of the study, and of its folder under logs.
        configs: Config files of the base experiment, or their names, composed in this order.
        weights: Starting weights by name. They are a file or anything else that ``--init_from`` takes, in which
            ``{seed}`` stands for the seed; or a pretraining, which is run first.
        strategies: Config file of each strategy by its name; for a file of ``configs/strategies`` its name will do. A
            strategy that sets ``init_from: null`` is run once, not once for each of the starting weights.
        soups: Strategies of which the study also averages the tuning runs: one soup, greedy by validation, for each
            tuned size and each of as many ``tuning.seeds`` as there are seeds. It is a row of its own.
        sizes: Sizes of the training set; null is all there is. At one seed, a smaller set is part of a larger one.
        at_size: Settings to change at a size, nested or by dotted names, for example fewer epochs on a larger set.
        size_key: Setting that the sizes change: data.examples_per_class, data.train_fraction, or any other number, such
            as model.target_epsilon. It is the axis of the report's curves.
            Null leaves the size to the base experiment.
        seeds: Seeds, which all strategies share: their results are compared pair by pair.
        until_decided: Number of seeds up to which the study goes on by itself. After the ``seeds`` it adds one seed at
            a time, until each size has a winner. All looks together name a wrong winner in at most one study of twenty,
            as the level of each is stricter. Null runs the ``seeds`` alone.
        seed_keys: Settings that a seed changes: the seed of the run, and by default also the draw of the training set
            and the hold-out.
        baseline: Strategy that the others are compared with.
        tuning: Choice of the learning rate. Without it, all runs use that of the base experiment.
        overrides: Settings to change in the base experiment, nested or by dotted names. A leaf ``{grid: [a, b]}`` runs
            the study with each of its values; ``{study}`` in a value stands for the folder of the study.
        metric: Metric that is compared and tuned for: its name after ``test/`` and ``val/``.
        mode: Whether a lower (min) or a higher (max) value of the metric is better. Most names, such as accuracy and
            loss, already say so; for other names it must be given.
        keep_checkpoints: Which checkpoints of finished runs stay on the disk: ``all``; the ``best`` of each run that is
            compared, and none of a tuning; or ``none``. Those of a pretraining stay.
        threads: CPU threads of each cell; by default the cores divided by the workers. A fixed number gives the same
            figures with any number of workers.
        slurm: Parameters of the jobs with ``--launcher slurm``, as submitit names them: slurm_partition, timeout_min,
            cpus_per_task, gpus_per_node, slurm_array_parallelism, ... One more is cells_per_job, the number of runs
            that a job does one after another, 1 by default.
    """

    name: str
    configs: list[str]
    weights: dict[str, str | Pretraining | None] = field(default_factory=lambda: {"none": None})
    strategies: dict[str, str] = field(
        default_factory=lambda: {name: f"configs/strategies/{name}.yaml" for name in STRATEGIES}
    )
    soups: list[str] = field(default_factory=list)
    sizes: list[int | float | None] = field(default_factory=lambda: [None])
    at_size: dict[int | float, Settings] = field(default_factory=dict)
    size_key: str | None = "data.examples_per_class"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    until_decided: int | None = None
    seed_keys: list[str] = field(default_factory=lambda: ["seed_everything", "data.split_seed"])
    baseline: str = "scratch"
    tuning: Tuning | None = None
    overrides: Settings = field(default_factory=dict)
    metric: str = "accuracy"
    mode: Direction | None = None
    keep_checkpoints: KeptCheckpoints = "all"
    threads: int | None = None
    slurm: Settings = field(default_factory=dict)

    @property
    def is_higher_better(self) -> bool:
        """Whether a higher value of the metric is better.

        Raises:
            UserError: If ``mode`` contradicts the name of the metric, or is missing where the name does not say.
        """
        return decide_direction(self.metric, self.mode, "mode of the study") == "max"


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
        axes |= {"tuning.sizes": study.tuning.sizes or study.sizes}
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
        _check_halving(study.tuning.halving, len(study.tuning.values))
    for size, changes in study.at_size.items():
        if size not in study.sizes:
            raise UserError(f"at_size has {size}, which is not one of the study's sizes {study.sizes}")
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


def _check_halving(halving: Halving, candidates: int) -> None:
    if halving.reduction < 2:
        raise UserError(f"tuning.halving.reduction is {halving.reduction}: expected 2 or more")
    if not 0 < halving.first < 1:
        raise UserError(f"tuning.halving.first is {halving.first}: expected a share between 0 and 1")
    if halving.finalists < 1:
        raise UserError(f"tuning.halving.finalists is {halving.finalists}: expected 1 or more")
    if candidates < 2:
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
