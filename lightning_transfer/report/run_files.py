"""Reads finished and unfinished runs from their event files and ``results.json``."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_transfer.directions import direction_of
from lightning_transfer.errors import UserError, in_one_line
from lightning_transfer.files import read_json
from lightning_transfer.report.expected_content import DATA, Results, expected

# Values of this plugin are data for the report. TensorBoard has no plugin of this name, so it does not show them.
PLUGIN = "lightning_transfer"
_MOST_NAMED = 4  # parts that are left out, in a line


@dataclass
class Run:
    """What one run has left on disk.

    Attributes:
        name: Path of its folder, relative to where the search began.
        scalars: Steps and values by tag, in the order of the steps.
        images: The last PNG by tag.
        data: The last plain types by tag, written by :func:`~lightning_transfer.dashboards.events.add_data`.
        steps: The step of that image or of those types, by tag.
        results: The content of ``results.json``, empty if there is none.
    """

    name: str
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> dict[str, float]:
        """The metrics of the best checkpoint on the test split, empty if it was not tested."""
        last = self.last("test/accuracy")
        return self.results.get("test") or ({} if last is None else {"test/accuracy": last})

    @property
    def facts(self) -> dict[str, Any]:
        """What the data module knows of its data: counts and fingerprints; empty if nothing."""
        facts: dict[str, Any] = self.results.get("data") or self.data.get("run/facts") or {}
        return facts

    @property
    def strategy(self) -> str | None:
        """Name of the strategy of fine-tuning; None where it was not recorded, as only dashboards do."""
        strategy: str | None = self.data.get("run/hyperparameters", {}).get("strategy")
        return strategy

    @property
    def seed(self) -> int | None:
        """Seed of the run, if it is known."""
        seed: int | None = self.results.get("seed", self.data.get("run/hyperparameters", {}).get("seed"))
        return seed

    def last(self, tag: str) -> float | None:
        """Returns the last value of a scalar, or None if it was never logged."""
        points = self.scalars.get(tag)
        return points[-1][1] if points else None

    def best_validation(self) -> tuple[int | None, dict[str, float]]:
        """Finds the step and the metrics of the validation that chose the best checkpoint.

        A run without a record has not ended; for it, this is the best validation so far.
        """
        chosen: dict[str, float] = self.results.get("validation") or {}
        if self.results:
            metric = str(self.results.get("selected_by"))
            steps = [step for step, value in self.scalars.get(metric, []) if value == chosen.get(metric)]
            return (steps[0] if steps else None), chosen
        curves = {tag: dict(points) for tag, points in self.scalars.items() if tag.startswith("val/")}
        for tag in ("val/accuracy", "val/loss"):
            if curve := {step: value for step, value in curves.get(tag, {}).items() if not math.isnan(value)}:
                best = (max if direction_of(tag) == "max" else min)(curve, key=curve.__getitem__)
                return best, {name: values[best] for name, values in curves.items() if best in values}
        return None, {}

    def epoch_of(self, step: int) -> int | None:
        """Returns the epoch of a step, counted from 1, or None if nothing was logged by then."""
        return max((int(epoch) + 1 for at, epoch in self.scalars.get("epoch", []) if at <= step), default=None)


def find_runs(folder: Path) -> list[Run]:
    """Reads all runs below a folder.

    Args:
        folder: Folder of a run, of an experiment or of all experiments.

    Raises:
        UserError: If the folder does not exist or has no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is no folder: give the folder of a run, or one with runs in it, such as logs")
    names = ("events.out.tfevents.*", "results.json")  # a run that only has other loggers has no event files
    places = sorted({file.parent for name in names for file in folder.rglob(name)})
    # The name of a single run includes its experiment.
    shared = folder.resolve().parent.parent if places == [folder] else folder.resolve()
    runs = [read_run(place, str(place.resolve().relative_to(shared))) for place in places]
    # lr-find writes only a picture for TensorBoard, so its folder is not a run.
    runs = [run for run in runs if run.scalars or run.data or run.results]
    if not runs:
        raise UserError(f"no run in {str(folder)!r}: expected event files of TensorBoard or a record in it or below")
    return runs


def read_run(folder: Path, name: str) -> Run:
    """Reads one run. If it was killed or still runs, what it has not written is missing."""
    run, wrong = Run(name), list[str]()
    try:
        _read_events(folder, run, wrong)
    except (OSError, UnicodeError) as error:  # it costs this run's curves, and no other's
        print(f"{name} is shown without its event files: {in_one_line(error)}", file=sys.stderr)
    file = folder / "results.json"
    if file.is_file():
        try:
            run.results = expected(read_json(file), Results, file.name, wrong)
        except (UserError, OSError) as error:  # it costs this run's record, and no other's
            print(f"{name} is shown without its record: {error}", file=sys.stderr)
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        said = "; ".join(wrong[:_MOST_NAMED])
        print(f"{name} is shown without what no run writes: {said}{more}", file=sys.stderr)
    if not run.scalars:
        run.scalars = _curves(run.results.get("validations") or [])
    return run


def _read_events(folder: Path, run: Run, wrong: list[str]) -> None:
    # 0 keeps all scalars. The last image and the last tensor of a tag are enough.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    for tag in events.Tags()["scalars"]:
        run.scalars[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()["images"]:
        if pictures := events.Images(tag):  # a run that resumes takes back what came after its checkpoint
            run.images[tag], run.steps[tag] = pictures[-1].encoded_image_string, pictures[-1].step
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == PLUGIN and events.Tensors(tag):
            content = _parsed(events.Tensors(tag)[-1].tensor_proto.string_val)
            if (found := expected(content, DATA.get(tag, Any), tag, wrong)) is not None:
                run.data[tag], run.steps[tag] = found, events.Tensors(tag)[-1].step


def _parsed(texts: Sequence[bytes]) -> Any:
    """Reads data of an event file; what is no JSON is an empty text, which is of no type that is expected."""
    try:
        return json.loads(texts[0])
    except (ValueError, IndexError, RecursionError):
        return ""


def _curves(validations: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Builds the curves of the metrics in a record, at Lightning's steps, which count from 0."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in (entry for entry in validations if math.isfinite(entry.get("step", math.nan))):
        for name in entry.keys() - {"step"}:
            curves.setdefault(name, []).append((int(entry["step"]) - 1, entry[name]))
    return curves
