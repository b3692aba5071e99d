"""Implements the command ``transfer``: a study of one seed, from the pretraining to a table of strategies."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_transfer.cli.dotted_settings import parse_with_settings
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.report_runs import write_page
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.directions import Direction
from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import YAML, find_config, known_config, portable_name
from lightning_transfer.run.verbosity import add_verbosity_options, print_result
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Pretraining, Settings, Study
from lightning_transfer.study.grid import flags
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.session import run_unfinished
from lightning_transfer.study.study_checks import check

Record = dict[str, Any]


def run_transfer(
    source: Sequence[str] = ("configs/quickstart.yaml",),
    target: Sequence[str] = ("configs/quickstart_transfer.yaml",),
    strategies: Sequence[str] = ("scratch", "gradual"),
    hardware: str = "configs/hardware/cpu.yaml",
    seed: int = 0,
    overrides: Settings | None = None,
    name: str | None = None,
    metric: str = "accuracy",
    mode: Direction | None = None,
    logs: Path = Path("logs"),
    workers: int = 0,
    retry_failed: bool = False,
) -> dict[str, Record]:
    """Pretrains on a source task, moves to a target task by several strategies, tests each, and prints a table.

    It is a study of one seed. Every run is an ordinary fit with its own folder under logs/<name>. When it is started
    again, it goes on where it stopped. Finished runs are kept, and an unfinished one resumes from its last checkpoint.

    Args:
        source: Configs of the experiment to pretrain with, or what --init_from takes: a checkpoint or a name of
            weights.
        target: Configs of the experiment to move to, as files or by name.
        strategies: Names of files in configs/strategies, or files of your own.
        hardware: Config of the machine, for all runs: a file, or a name of configs/hardware.
        seed: Seed of all runs.
        overrides: Settings to change in the target experiment, by dotted names. Runs with other values are kept.
        name: Name of the folder under logs; <target>_from_<source> if not given.
        metric: Metric that the table shows: its name after ``val/`` and ``test/``.
        mode: Whether a lower (min) or a higher (max) value of the metric is better, where its name does not say.
        logs: Folder of all experiments.
        workers: Number of processes that run; 0 runs everything in this one.
        retry_failed: Whether failed runs start again, from their start.

    Returns:
        The records of the finished runs: that of the pretraining as ``source task``, the others by strategy.

    Raises:
        UserError: If a name or file does not exist, the folder has runs of other settings, or a run failed.
    """
    files, own, names = _listed(source), _listed(target), _listed(strategies)
    strategy_files, machine = _strategy_files(names), portable_name(find_config(hardware, "hardware"))
    study = Study(
        name=name or f"{_brief(own)}_from_{_brief(files)}",
        configs=[*own, machine],
        weights={_brief(files): Pretraining([*files, machine], per_seed=True) if _are_configs(files) else files[0]},
        strategies=strategy_files,
        size_key=None,
        seeds=[seed],
        seed_keys=["seed_everything"],
        baseline=next(iter(strategy_files)),
        overrides={key: {"grid": [value]} for key, value in flags(overrides or {}).items()},
        metric=metric,
        mode=mode,
    )
    check(study)
    plan = Plan(study, Path(logs))
    run_unfinished(plan, workers, retry_failed=retry_failed)
    cells = dict(zip(["source task"], plan.pretraining(), strict=False))  # none where no strategy takes weights
    cells |= {cell.arm.strategy: cell for cell in plan.final() if cell.arm}
    results = {row: cell.result for row, cell in cells.items() if cell.result is not None}
    show = shlex.join(["tensorboard", "--logdir", str(plan.folder)])
    last = ""
    if results:
        from lightning_transfer.report.conclusion import conclusion  # late: --help and the runs need no scipy

        page = write_page(plan.folder)
        records = {row: [result] for row, result in results.items() if row in strategy_files}
        sentence = conclusion(records, metric, study.is_higher_better, study.baseline)
        last = f"{sentence and sentence + '; '}open {page}"
    lines = ["", _table(results, metric), "", show]
    record = {"event": "records", "folder": str(plan.folder), "records": results}
    print_result("\n".join(lines), record, last)
    _refuse_failed([*cells.values()])
    return results


def parser() -> Parser:
    """Builds the parser of the command."""
    parser = parser_of("transfer", run_transfer)
    add_verbosity_options(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    run_transfer(**parse_with_settings(parser(), arguments, "overrides"))


def _listed(words: Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else [*words]


def _are_configs(source: list[str]) -> bool:
    if all(_is_config(file) for file in source):
        return True
    if len(source) > 1:
        raise UserError(f"source is {' '.join(source)}: expected configs of an experiment, or one source of weights")
    return False


def _is_config(source: str) -> bool:
    return source.endswith(YAML) or (not Path(source).is_file() and known_config(source) is not None)


def _brief(files: list[str]) -> str:
    """Names an experiment by its first file, and any other source of weights by its whole text."""
    first = files[0]
    return re.sub(r"[^\w.=-]+", "_", Path(first).stem if first.endswith(YAML) else first)


def _strategy_files(strategies: list[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for strategy in strategies:
        file = find_config(strategy, "strategies")
        if file.stem in files:
            raise UserError(f"strategies has {file.stem} twice: expected each name once")
        files[file.stem] = portable_name(file)
    return files


def _table(results: Mapping[str, Record], metric: str) -> str:
    """Writes a line for each run: the metric on both splits, and how long its fit took."""
    lines = [f"{'':<24}{'validation':>12}{'test':>12}{'seconds':>12}"]
    for row, result in results.items():
        # A language model as the source has no accuracy and no test. Without a hold-out there is no validation.
        values = [
            (result[split] or {}).get(f"{key}/{metric}") for split, key in (("validation", "val"), ("test", "test"))
        ]
        cells = "".join(f"{'' if value is None else f'{value:.4f}':>12}" for value in values)
        lines.append(f"{row:<24}{cells}{result['fit_seconds']:>12.1f}")
    return "\n".join(lines)


def _refuse_failed(cells: list[Cell]) -> None:
    for cell in cells:
        if cell.failure:
            raise UserError(f"{cell.folder} failed ({cell.failure}), see its log.txt: --retry_failed runs it again")
