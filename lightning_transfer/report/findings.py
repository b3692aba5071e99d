"""Finds what the runs of a task say: which of them repeat the same settings, and which strategy is best."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from lightning_transfer.report.conclusion import Record, conclusion
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.tasks import Task, brief_names, is_share

_BASELINE = "scratch"
# Options by which repetitions of a run differ; the folders of their starting weights may differ in the seed only.
_OF_ONE_RUN = re.compile(r"--([\w.]*seed\w*|version|experiment|logs|ckpt_path)")
_SEED_IN_FOLDER = re.compile(r"seed_\d+")


def findings(task: Task) -> list[str]:
    """Writes a sentence for each number of training examples; runs without a test are not compared."""
    tested = [run for run in task.runs if f"test/{task.metric}" in run.tested]
    if not tested:
        return [_untested(task)]
    by_size: dict[int | None, list[Run]] = {}
    for run in tested:
        by_size.setdefault(run.facts.get("train_examples"), []).append(run)
    sentences = []
    for size, runs in sorted(by_size.items(), key=lambda item: item[0] or 0):
        words = conclusion(_arms(runs), task.metric, task.direction == "max", _BASELINE)
        where = f"With {size:,} training examples: " if size and len(by_size) > 1 else ""
        sentences.append(f"{where}{words}.")
    return sentences


def _arms(runs: Sequence[Run]) -> Mapping[str, Sequence[Record]]:
    """Groups the records of runs that differ in the seed only, by strategy or else by the name of a run."""
    if len(runs) == 1:
        return {runs[0].name: [_record(runs[0])]}
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(_settings(run), []).append(run)
    groups = list(by_settings.values())
    strategies = [group[0].strategy for group in groups]
    short = brief_names([group[0].name for group in groups])
    are_named = None not in strategies and len(set(strategies)) == len(groups)
    names = [str(group[0].strategy) if are_named else short[group[0].name] for group in groups]
    return {name: [_record(run) for run in group] for name, group in zip(names, groups, strict=True)}


def _record(run: Run) -> Record:
    return {"test": run.tested, "seed": run.seed, "data": run.facts}


def _settings(run: Run) -> str:
    """Returns the command of a run without what may differ between repetitions; its name if there is no command.

    The order of options with different names does not matter, nor whether ``=`` or a blank is before a value.
    """
    try:
        words = shlex.split(run.results.get("command") or "")
    except ValueError:  # a quotation without its end
        return run.name
    options: list[list[str]] = [[]]
    for word in words:
        name, sign, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name.startswith("--"):
            options.append([name, *[value] * bool(sign)])
        else:
            options[-1].append(word)
    kept = [option for option in options if not (option and _OF_ONE_RUN.fullmatch(option[0]))]
    in_order = sorted(kept, key=lambda option: option[:1])  # stable: configs of one name keep theirs
    return " ".join(_SEED_IN_FOLDER.sub("seed", word) for option in in_order for word in option) or run.name


def _untested(task: Task) -> str:
    """Says which run is best on the validation, which is no conclusion."""
    tag, sign = f"val/{task.metric}", 1 if task.direction == "max" else -1
    found = [(run, run.best_validation()[1].get(tag, math.nan)) for run in task.runs]
    validated = [(run, value) for run, value in found if not math.isnan(value)]
    if not validated:
        return "No run has a number of a validation or a test: nothing is concluded."
    run, value = max(validated, key=lambda found: sign * found[1])
    is_percent = is_share(tag, (value for _, value in validated))
    number = f"{100 * value:.1f} %" if is_percent else f"{value:.4g}"
    step = run.best_validation()[0]
    epoch = f" in epoch {run.epoch_of(step)}" if step is not None and run.epoch_of(step) else ""
    name = brief_names([run.name for run in task.runs])[run.name]
    best = "is best with" if len(validated) > 1 else "has"
    state = "" if run.results else " so far; it has not ended"
    return (
        f"{name} {best} {number} validation {task.metric}{epoch}{state}. No run was tested, so nothing is concluded:"
        " --test_after_fit true tests the best checkpoint."
    )
