"""Runs the cells of a study. A cell is one ``fit`` whose folder records its settings, its result or its failure."""

import json
import shlex
import shutil
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_transfer.errors import UserError
from lightning_transfer.files import read_json, write_json
from lightning_transfer.study.cell_output import command_line, last_error_line, output_to
from lightning_transfer.study.config import KeptCheckpoints
from lightning_transfer.study.grid import Variant, flatten
from lightning_transfer.study.ranks import ranks_of_one_run

CELL, FAILURE, LOG, RESULTS = "cell.json", "failed.json", "log.txt", "results.json"
VALIDATED = "validated.json"  # the validations of a run that pauses, by the share of its training


@dataclass(frozen=True)
class Arm:
    """One of the alternatives that a study compares.

    Args:
        strategy: Name of the strategy.
        weights: Name of the starting weights; None if the strategy takes none.
        variant: Name and value of each leaf of the grid.
        is_soup: Whether it is the mean of the runs by which that strategy is tuned.
    """

    strategy: str
    weights: str | None = None
    variant: Variant = ()
    is_soup: bool = False


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        name: Name of its folder.
        logs: Folder of the study.
        kind: Stage of the study that the run belongs to.
        arguments: Command line of its ``fit``, or of its ``soup``.
        settings: Everything that its result depends on, in JSON types; a changed cell is noticed by them.
        files: The config files, in the order of their contents in the settings.
        arm: The arm that it is a run of; None for a pretraining.
        size: Size of the training set.
        seed: Seed of the run.
        value: The tuned value.
        part: The shares of its training between which it is to run now. It pauses at the second, if that is below 1.
    """

    name: str
    logs: Path
    kind: Literal["pretraining", "tuning", "final"]
    arguments: tuple[str, ...]
    settings: dict[str, Any] = field(hash=False)
    files: tuple[str, ...]
    arm: Arm | None = None
    size: float | None = None
    seed: int = 0
    value: Any = field(default=None, hash=False)
    part: tuple[float, float] = field(default=(0.0, 1.0), compare=False)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.logs / self.name

    @property
    def result(self) -> dict[str, Any] | None:
        """The record of the run; None until it has finished."""
        file = self.folder / RESULTS
        return read_json(file) if file.exists() else None

    @property
    def failure(self) -> str | None:
        """The line that says why the run failed; None if it has not failed, or has finished after all."""
        file = self.folder / FAILURE
        if self.is_finished:  # its worker died just afterwards, or its job came late
            return None
        return read_json(file)["error"] if file.exists() else None

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished, and so has its record."""
        return (self.folder / RESULTS).exists()

    @property
    def is_over(self) -> bool:
        """Whether the run has finished or failed, or has come to its pause."""
        return self.is_finished or self.failure is not None or self.is_paused

    @property
    def is_paused(self) -> bool:
        """Whether the run has come to its pause. From there it goes on as if it had not paused."""
        return self.part[1] < 1 and max(self.validated, default=0.0) >= self.part[1]

    @property
    def validated(self) -> dict[float, dict[str, float]]:
        """The metrics of a pausing run's best checkpoint at each validation, by the share of the training."""
        file = self.folder / VALIDATED
        return {float(share): found for share, found in read_json(file).items()} if file.exists() else {}

    def tells(self, share: float) -> bool:
        """Says whether it is known what the finished run was worth at a share of its training.

        A run notes its validations until its last pause. One that stopped by itself was worth later what it was then.
        So was one whose notes were damaged and set aside.
        """
        if share == 1 or not any(self.folder.glob(f"{VALIDATED}*")):
            return share == 1
        noted = self.validated
        if not noted or share <= max(noted):
            return True
        result = self.result
        assert result is not None
        return len(result.get("validations") or []) <= len(noted)

    @property
    def is_outdated(self) -> bool:
        """Whether it is a soup of other runs than those that have finished by now."""
        file = self.folder / CELL
        if self.arm is None or not self.arm.is_soup or not file.exists():
            return False
        before = shlex.split(read_json(file)["command"])[1:]  # without the name of the program
        return [Path(word).name for word in before] != [Path(word).name for word in self.arguments]

    def score(self, metric: str) -> float:
        """Returns a metric of the finished run: on the validation split for a tuning run, else on the test split.

        Raises:
            UserError: If the run has not logged the metric.
        """
        assert self.result is not None
        split, prefix = ("validation", "val/") if self.kind == "tuning" else ("test", "test/")
        return self.read(self.result[split] or {}, prefix, metric)

    def read(self, logged: dict[str, float], prefix: str, metric: str) -> float:
        """Returns a metric of those that the run has logged.

        Raises:
            UserError: If it is not among them.
        """
        if f"{prefix}{metric}" not in logged:
            names = ", ".join(sorted(logged)) or "nothing"
            raise UserError(
                f"metric {metric!r} of the study is {prefix}{metric}: expected one logged in {self.folder}: {names}"
            )
        return logged[f"{prefix}{metric}"]

    def check_unchanged(self) -> None:
        """Compares the settings of the cell with those that its folder was made with, if it has a folder.

        Raises:
            UserError: If they differ, because results of different settings must not be mixed.
        """
        file = self.folder / CELL
        if not file.exists():
            if self.is_finished:
                raise UserError(
                    f"{self.folder} has results, and no {CELL} that says of which settings: restore that, or delete the"
                    " folder to run it again"
                )
            return
        record = read_json(file)
        if not isinstance(saved := record.get("settings"), dict):
            raise UserError(f"{file} has no settings: expected those of the run, delete {self.folder} to run it again")
        before, now = flatten(saved), flatten(self.settings)
        changes = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changes:
            if len(changes) == 1 and self.kind == "final" and record.get("value") != self.value:
                raise UserError(
                    f"{self.folder} was made with {self._readable(changes[0])} {record.get('value')}, and its tuning"
                    f" chooses {self.value} now, by other candidates or as a failed run was tried again: delete"
                    f" {self.logs / self.name.rpartition('-seed_')[0]}-seed_*, which are then run with that"
                )
            was, is_now = (json.dumps(found.get(changes[0])) for found in (before, now))
            more = f" and {len(changes) - 1} more" if changes[1:] else ""
            raise UserError(
                f"{self.folder} was made with {self._readable(changes[0])} {was}, and now it is {is_now}{more}: "
                f"undo the change, give the study another name, or delete what it changes in {self.logs}"
            )

    def _readable(self, name: str) -> str:
        kind, _, rest = name.partition(".")
        if kind == "configs":
            number, _, key = rest.partition(".")
            is_known = number.isdecimal() and int(number) < len(self.files)
            return f"{key} of {self.files[int(number)]}" if is_known else "more configs:"
        return rest if kind == "arguments" else f"other starting {name}:"

    def begin(self) -> None:
        """Makes the folder, and records the settings of the cell in it."""
        arm = vars(self.arm) if self.arm else {}
        facts = {"name": self.name, "kind": self.kind, **arm, "size": self.size, "seed": self.seed, "value": self.value}
        command = shlex.join(["lightning-transfer", *self.arguments])
        write_json(self.folder / CELL, {**facts, "command": command, "settings": self.settings})

    def run(self) -> float:
        """Runs the cell in this process, from where it stopped before; what it prints goes to its log.

        If the run fails, the line that says why is written into the folder.

        Returns:
            The seconds that its command took.

        Raises:
            SystemExit: If a signal has stopped the run.
        """
        from lightning_transfer.cli.entry import main  # imported late, because it loads torch

        start = time.perf_counter()
        self.begin()
        arguments, error = [*self.arguments, *self._pause(), *self.resume()], None
        with output_to(self.folder / LOG), command_line(arguments), ranks_of_one_run():
            try:
                main()
            except SystemExit as stop:
                if isinstance(stop.code, int) and stop.code > 128:  # a signal stopped the run, which goes on later
                    raise
                error = f"exit status {stop.code}" if stop.code else None
            except Exception as exception:
                traceback.print_exc()
                error = " ".join(f"{type(exception).__name__}: {exception}".split())
        if error:
            self.fail(last_error_line(self.folder / LOG) or error)
        return time.perf_counter() - start

    def fail(self, error: str) -> None:
        """Records that the run failed."""
        write_json(self.folder / FAILURE, {"error": error})

    def drop_checkpoints(self, keep: KeptCheckpoints) -> None:
        """Deletes the checkpoints that the study does not keep: the run is over, or stopped for good.

        Args:
            keep: What the study keeps. Of a run without a best checkpoint, ``best`` keeps the last one.
        """
        if keep == "all" or self.kind == "pretraining":
            return
        folder = self.folder / "checkpoints"
        found = [*folder.glob("*.ckpt"), *folder.glob("*_adapter")]
        if keep == "best" and self.kind == "final":
            kept = "best" if (folder / "best.ckpt").exists() else "last"
            found = [path for path in found if path.stem not in (kept, f"{kept}_adapter")]
        for path in found:
            if path.is_dir():  # adapters, and what FSDP saves
                shutil.rmtree(path)
            else:
                path.unlink()

    def forget(self) -> None:
        """Deletes the folder of the run, so that it starts anew."""
        shutil.rmtree(self.folder)

    def _pause(self) -> list[str]:
        if self.part[1] == 1:
            return []
        pause = {"class_path": "lightning_transfer.study.pausing.TrainingPause", "init_args": {"share": self.part[1]}}
        return [f"--trainer.callbacks+={json.dumps(pause)}"]

    def resume(self) -> list[str]:
        """Returns the argument that resumes the run; renames its last checkpoint where none is whole, and says so."""
        from lightning_transfer.run.reading import newest_whole  # imported late, because it loads torch

        try:
            newest = newest_whole(self.folder / "checkpoints")
        except UserError:
            last = self.folder / "checkpoints" / "last.ckpt"
            aside = last.replace(last.with_name(f"{last.name}.damaged"))
            print(f"{last} is damaged: it is now {aside.name}, and its run starts from the beginning", flush=True)
            newest = None
        return [] if newest is None else ["--ckpt_path=last"]
