"""Searches settings with Optuna: every trial is a run that validation judges, and the best is run again for test."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_transfer.directions import Direction
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Study
from lightning_transfer.study.grid import flags
from lightning_transfer.study.plan import Plan, config_flags
from lightning_transfer.study.pruning import PRUNED, running
from lightning_transfer.study.session import locked
from lightning_transfer.study.study_checks import check

if TYPE_CHECKING:
    import optuna

_PRUNING = "lightning_transfer.study.pruning.TrialPruning"


class _Failed(Exception):  # noqa: N818  # no error of this program
    """A trial has failed, as the line in its folder says."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep has found.

    Attributes:
        settings: The settings of the best trial, by dotted names.
        validation: Its metric on the validation split.
        best: The folder of its run.
        final: The folders of the runs with these settings, one for each seed, that were tested.
        study: Optuna's study, with all trials.
    """

    settings: dict[str, str]
    validation: float
    best: Path
    final: list[Path]
    study: "optuna.Study"


def run_sweep(
    name: str,
    configs: Sequence[str],
    space: "Callable[[optuna.Trial], dict[str, Any]]",
    trials: int,
    seeds: Sequence[int] = (0,),
    tuning_seed: int = 1000,
    metric: str = "accuracy",
    mode: Direction | None = None,
    seed_keys: Sequence[str] = ("seed_everything", "data.split_seed"),
    logs: Path = Path("logs"),
    sampler: "optuna.samplers.BaseSampler | None" = None,
    pruner: "optuna.pruners.BasePruner | None" = None,
    storage: "optuna.storages.BaseStorage | str | None" = None,
) -> Sweep:
    """Searches settings with Optuna, on the terms of a study.

    Every trial is an ordinary fit with its own folder ``logs/<name>/trial_<number>``. It never reads the test split:
    the validation of its best checkpoint decides. Then the best settings run once for each seed and are tested, as the
    runs of a study's table. A sweep that is started again goes on: with the trial that was interrupted, from its last
    checkpoint, and then with those that are missing.

    Args:
        name: Name of the sweep, and of its folder under logs.
        configs: Config files of the experiment, or their names, composed in this order.
        space: Function from Optuna's trial to the settings that it tries, nested or by dotted names.
        trials: Number of trials in all, with those of earlier starts.
        seeds: Seeds of the final runs.
        tuning_seed: Seed of all trials, which is not one of the others.
        metric: Metric that decides: its name after ``val/``.
        mode: Whether a lower (min) or a higher (max) value of the metric is better, where its name does not say.
        seed_keys: Settings that a seed changes.
        logs: Folder of all experiments.
        sampler: Optuna's sampler; its default if None.
        pruner: Optuna's pruner, which gets the metric after each validation; none if None.
        storage: Optuna's storage; the file ``optuna.journal`` in the sweep's folder if None.

    Returns:
        The best settings, and the folders of the runs.

    Raises:
        UserError: If Optuna is not installed, a setting has changed since an earlier start, no trial has finished, or a
            final run failed.
    """
    require_library("optuna", "run_sweep", "optuna")
    if trials < 1:
        raise UserError(f"trials is {trials}: expected 1 or more")
    if tuning_seed in seeds:
        raise UserError(f"tuning_seed is {tuning_seed}, which is also one of the seeds: tune with another")
    # A study of one strategy without sizes: it knows seeds, folders and the metric's direction.
    terms = Study(name, [*configs], seeds=[*seeds], seed_keys=[*seed_keys], metric=metric, mode=mode, size_key=None)
    check(terms)
    plan = Plan(terms, Path(logs))
    with locked(plan.folder):
        study = _optuna_study(plan, sampler, pruner, storage)
        _check_unchanged(plan, study, space, tuning_seed)
        _search(study, trials, lambda trial: _run(trial, _trial_cell(plan, trial, space, tuning_seed), metric))
        return _conclude(plan, study, space)


def _optuna_study(plan: Plan, sampler: Any, pruner: Any, storage: Any) -> "optuna.Study":
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # each trial has its line here
    return optuna.create_study(
        study_name=plan.study.name,
        storage=storage or optuna.storages.JournalStorage(JournalFileBackend(str(plan.folder / "optuna.journal"))),
        sampler=sampler,
        pruner=pruner or optuna.pruners.NopPruner(),
        direction="maximize" if plan.study.is_higher_better else "minimize",
        load_if_exists=True,
    )


def _search(study: "optuna.Study", count: int, objective: "Callable[[optuna.Trial], float]") -> None:
    """Ends the interrupted trials, and runs new ones until there are enough."""
    import optuna
    from optuna.trial import TrialState

    # Whoever ran these has ended, because this process has the lock of the sweep.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        told: dict[str, Any]
        try:
            told = {"values": objective(optuna.Trial(study, trial._trial_id))}
        except optuna.TrialPruned:
            told = {"state": TrialState.PRUNED}
        except _Failed:
            told = {"state": TrialState.FAIL}
        # A grid that has nothing left to try stops Optuna's loop, and here is none.
        with contextlib.suppress(RuntimeError):
            study.tell(trial.number, **told)
    if (missing := count - len(study.trials)) > 0:
        study.optimize(objective, n_trials=missing, catch=(_Failed,))


def _check_unchanged(plan: Plan, study: "optuna.Study", space: Callable[..., dict[str, Any]], seed: int) -> None:
    """Refuses to mix trials of different settings."""
    import optuna

    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            try:
                cell = _trial_cell(plan, optuna.trial.FixedTrial(trial.params, trial.number), space, seed)
            except ValueError as error:
                raise UserError(f"{plan.folder} has trials of another space ({error}): give another name") from error
            cell.check_unchanged()


def _trial_cell(plan: Plan, trial: "optuna.trial.BaseTrial", space: Callable[..., dict[str, Any]], seed: int) -> Cell:
    return _cell(plan, f"trial_{trial.number}", flags(space(trial)), seed, "tuning")


def _cell(plan: Plan, name: str, settings: dict[str, str], seed: int, kind: Any) -> Cell:
    files = plan.study.configs
    seeds = {key: str(seed) for key in plan.study.seed_keys}
    arguments = config_flags(files)
    if kind == "tuning":
        arguments += [f"--trainer.callbacks+={_PRUNING}"]
    settings = {**settings, **seeds, "test_after_fit": "false" if kind == "tuning" else "true"}
    return plan.fit_cell(name, files, arguments, settings, None, kind=kind, seed=seed)


def _run(trial: "optuna.Trial", cell: Cell, metric: str) -> float:
    """Runs a trial, and gives its value, or says that it was pruned or has failed."""
    import optuna

    cell.check_unchanged()
    if not cell.is_over:
        with running(trial, f"val/{metric}"):
            cell.run()
    is_pruned = PRUNED in trial.user_attrs
    outcome = f"failed: {cell.failure}" if cell.failure else f"val/{metric} {cell.score(metric):.4f}"
    tried = ", ".join(f"{name} {value}" for name, value in trial.params.items())
    print(f"trial {trial.number}: {outcome}{' (pruned)' if is_pruned else ''}; {tried}", flush=True)
    if cell.failure:
        raise _Failed
    if is_pruned:  # Optuna takes its last report for its value
        raise optuna.TrialPruned
    return cell.score(metric)


def _conclude(plan: Plan, study: "optuna.Study", space: Callable[..., dict[str, Any]]) -> Sweep:
    """Runs the best settings with each seed, and tests them."""
    import optuna

    if not study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        raise UserError(f"no trial of the sweep in {plan.folder} has finished: see log.txt of the trials")
    best = study.best_trial
    settings = flags(space(optuna.trial.FixedTrial(best.params, best.number)))
    final = [_cell(plan, f"trial_{best.number}-seed_{seed}", settings, seed, "final") for seed in plan.study.seeds]
    for cell in final:
        cell.check_unchanged()
        if not cell.is_over:
            cell.run()
        if cell.failure:
            raise UserError(f"{cell.folder} failed ({cell.failure}): see its log.txt, and delete it to run it again")
        print(f"{cell.name}: test/{plan.study.metric} {cell.score(plan.study.metric):.4f}", flush=True)
    return Sweep(settings, study.best_value, plan.folder / f"trial_{best.number}", [it.folder for it in final], study)
