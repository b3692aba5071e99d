"""The settings of a study: the fields of its YAML file."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lightning_transfer.directions import Direction, decide_direction

if TYPE_CHECKING:
    Settings = dict[str, Any]
    Values = list[Any]
else:  # have no value types: in a dict[str, Any] the parser would check the classes that the values name
    Settings, Values = dict, list

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
        first_of: A longer first share of single strategies, by their names. A rate of ``lp_ft`` shows its worth once
            the layers below the head train, so at ``{lp_ft: 0.6}``.
    """

    reduction: int = 3
    first: float = 0.2
    finalists: int = 2
    first_of: dict[str, float] = field(default_factory=dict)


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

    values: Values
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
        sizes: Sizes of the training set; null is all there is. At one seed, a smaller set is part of a larger one. They
            may also be values of another setting, which ``size_key`` names.
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
    at_size: dict[int | float | None, Settings] = field(default_factory=dict)
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
    def tuned_sizes(self) -> list[int | float | None]:
        """The sizes that have a choice of their own; all of them where none are named."""
        return (self.tuning and self.tuning.sizes) or self.sizes

    @property
    def is_higher_better(self) -> bool:
        """Whether a higher value of the metric is better.

        Raises:
            UserError: If ``mode`` contradicts the name of the metric, or is missing where the name does not say.
        """
        return decide_direction(self.metric, self.mode, "mode of the study") == "max"
