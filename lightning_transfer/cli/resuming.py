"""Finds the run that ``fit --resume`` names, and gives the arguments that go on with it."""

from collections.abc import Sequence
from pathlib import Path

from lightning_transfer.errors import UserError, did_you_mean

RESUME = "--resume"
_OWN = ("--version", "--ckpt_path")  # what the run decides


def resumed(words: Sequence[str]) -> list[str]:
    """Replaces ``--resume`` in the arguments of ``fit``: by the run's config, its folder and its newest checkpoint.

    Other arguments change the run's config, as those after a ``--config`` do.

    Args:
        words: The command line without the name of the program; other commands are left as they are.

    Raises:
        UserError: If there is no such run, or several have the name. Also if a folder or a checkpoint is named too.
    """
    if words[:1] != ["fit"]:
        return [*words]
    rest, given = _taken(words, RESUME)
    if not given:
        return [*words]
    for option in _OWN:
        if _taken(rest, option)[1]:
            raise UserError(f"{RESUME} goes on in the run's own folder, from its newest checkpoint: leave out {option}")
    rest, logs = _taken(rest, "--logs")
    rest, experiment = _taken(rest, "--experiment")
    run = _find(given[-1], Path(logs[-1] if logs else "logs"), experiment[-1] if experiment else "*")
    place = ["--logs", str(run.parents[1]), "--experiment", run.parent.name, "--version", run.name]
    return ["fit", "--config", str(run / "config.yaml"), *rest[1:], *place, "--ckpt_path", "last"]


def _taken(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Separates the values of an option from the other words."""
    rest, values = [], []
    following = iter(words)
    for word in following:
        name, mark, value = word.partition("=")
        if name != option:
            rest.append(word)
        else:
            values.append(value if mark else next(following, ""))
    return rest, values


def _find(name: str, logs: Path, experiment: str) -> Path:
    """Finds the folder of a run by its path, or by its name below the folder of all experiments."""
    runs = [file.parent for file in sorted(logs.glob(f"{experiment}/*/config.yaml"))]
    if name and (Path(name) / "config.yaml").is_file():
        folder = Path(name)
        if ".." in folder.parts:  # which is no name of an experiment
            return folder.resolve()
        return folder if len(folder.parts) > 2 else folder.absolute()
    found = [run for run in runs if name in (run.name, f"{run.parent.name}/{run.name}")]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(str, found))
        raise UserError(f"{RESUME} is {name}, the name of several runs: name one by its folder: {listed}")
    known = sorted({text for run in runs for text in (str(run), run.name)})
    hint = did_you_mean(name, known, f"there are {len(runs)} runs with a config.yaml below {logs}")
    raise UserError(f"{RESUME} is {name!r}: expected the folder or the name of a run below {logs}; {hint}")
