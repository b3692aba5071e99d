"""The figures of runs: phases and layer groups over steps, the confusion matrix, the reliability diagram."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from lightning_transfer.report.drawing import Anchor, Canvas, shortened, text_width
from lightning_transfer.report.palette import Color

_MOST_NUMBERED_CLASSES = 20  # with more classes, the numbers in the cells are too small to read
_MOST_NAMED_CLASSES = 50


class Figure(Protocol):
    """Data that can be drawn, and can be saved as plain types."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in units."""

    def draw(self, canvas: Canvas) -> None:
        """Draws onto a canvas of that size."""


@dataclass
class Timeline:
    """Shows which layer groups were trainable when, and at which learning rate; holds plain types only.

    Attributes:
        groups: Names of the layer groups, from input to head.
        phases: The step at which each phase began, and the names of the groups that it trains.
        rates: Samples of a step and the learning rate of each group at it, 0 for a frozen group.
        end: Number of steps taken so far.
        total: Number of steps of the whole training, 0 if unknown.
        steps_per_epoch: Number of steps of an epoch, 0 if unknown.
    """

    groups: list[str]
    phases: list[tuple[int, list[str]]] = field(default_factory=list)
    rates: list[tuple[int, list[float]]] = field(default_factory=list)
    end: int = 0
    total: int = 0
    steps_per_epoch: int = 0

    def rows(self) -> list[dict[str, int | str]]:
        """Returns the phases as a table: the number, the first step and the groups that it trains."""
        phases = enumerate(self.phases, 1)
        return [{"phase": at, "step": step, "trainable": ", ".join(names) or "nothing"} for at, (step, names) in phases]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in units."""
        return 760, 74 + 28 * len(self.groups) + (18 if self.steps_per_epoch else 0)

    def draw(self, canvas: Canvas) -> None:
        """Draws a row for each layer group, the head on top: grey while frozen, then coloured by the learning rate."""
        width, top, row = self.size[0], 40, 28
        left = min(170.0, max(60.0, *(text_width(name) + 18 for name in self.groups)))
        last = max(self.total, self.end, 1)
        largest = max((rate for _, rates in self.rates for rate in rates), default=0.0)
        bottom = top + row * len(self.groups)

        def place(step: float) -> float:
            return left + (width - left - 16) * min(step, last) / last

        self._legend(canvas, left, largest)
        for index, name in enumerate(reversed(self.groups)):
            y = top + row * index
            canvas.text(left - 10, y + row / 2, shortened(name, left - 14), anchor="end")
            canvas.rectangle(place(0), y + 3, place(last) - place(0), row - 6, "frozen", 0.3)
            canvas.rectangle(place(0), y + 3, place(self.end) - place(0), row - 6, "frozen", title=f"{name}: frozen")
            self._rates_of(canvas, name, place, y + 3, row - 6, largest)
        for number, (start, _) in enumerate(self.phases, start=1):
            canvas.line([(place(start), top - 10), (place(start), bottom)], "ink")
            canvas.text(place(start) + 4, top - 8, f"phase {number}" if len(self.phases) < 8 else str(number), size=11)
        for step in ticks(0, last, 6):
            anchor: Anchor = "middle" if step else "start"
            canvas.text(place(step), bottom + 12, f"{step:,.0f}" if step else "step 0", "muted", 11, anchor)
        if self.steps_per_epoch:
            for epoch in ticks(0, last / self.steps_per_epoch, 6):
                words = f"{epoch:g}" if epoch else "epoch 0"
                canvas.text(
                    place(epoch * self.steps_per_epoch), bottom + 29, words, "muted", 11, "middle" if epoch else "start"
                )

    def _legend(self, canvas: Canvas, left: float, largest: float) -> None:
        canvas.rectangle(left, 6, 14, 10, "frozen")
        canvas.text(left + 20, 11, "frozen", "muted", 11)
        for part in range(40):
            canvas.rectangle(left + 80 + 3 * part, 6, 3, 10, "accent", _rate_opacity(part / 39))
        canvas.text(left + 206, 11, f"learning rate from 0 to {largest:.3g}", "muted", 11)

    def _rates_of(
        self, canvas: Canvas, name: str, place: Callable[[float], float], y: float, height: float, largest: float
    ) -> None:
        index = self.groups.index(name)
        ends = [step for step, _ in [*self.rates, (self.end, [])]][1:]
        for (start, rates), end in zip(self.rates, ends, strict=True):
            if end > start and rates[index] > 0:
                opacity = _rate_opacity(rates[index] / largest)
                title = f"{name}: learning rate {rates[index]:.3g} at step {start}"
                canvas.rectangle(place(start), y, place(end) - place(start), height, "paper")
                canvas.rectangle(place(start), y, place(end) - place(start), height, "accent", opacity, title)


@dataclass
class ConfusionMatrix:
    """Shows which classes a network takes for which; holds plain types only.

    Attributes:
        counts: Number of predictions of each class, for each label.
        class_names: Names of the classes.
    """

    counts: list[list[int]]
    class_names: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in units."""
        side = self._left + 28 + self._cell * len(self.counts)
        return side + 20, side

    @property
    def _cell(self) -> float:
        return min(44.0, 560 / max(len(self.counts), 1))

    @property
    def _left(self) -> float:
        if len(self.counts) > _MOST_NAMED_CLASSES:
            return 30
        return min(120.0, max(text_width(name, self._name_size) for name in self.class_names) + 30)

    @property
    def _name_size(self) -> float:
        return min(12.0, max(6.0, self._cell * 0.75))

    def draw(self, canvas: Canvas) -> None:
        """Draws the share of each label's examples by predicted class, with counts if they are large enough to read."""
        counts = np.array(self.counts)
        cell, left, top = self._cell, self._left, 24
        side = cell * len(counts)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        canvas.rectangle(left, top, side, side, "grid", 0.35)
        canvas.heatmap(left, top, side, side, np.sqrt(shares))  # the square root makes rare confusions visible
        canvas.text(left + side / 2, 10, "label down, prediction across", "muted", 11, "middle")
        if len(counts) <= _MOST_NUMBERED_CLASSES:
            for row, column in zip(*np.nonzero(counts), strict=True):
                x, y = left + cell * (column + 0.5), top + cell * (row + 0.5)
                color: Color = "paper" if shares[row, column] > 0.3 else "ink"
                canvas.text(x, y, f"{counts[row, column]}", color, min(12, cell * 0.38), "middle")
        if len(counts) > _MOST_NAMED_CLASSES:
            return
        for index, name in enumerate(self.class_names):
            size = self._name_size
            middle = cell * (index + 0.5)
            canvas.text(left - 8, top + middle, shortened(name, left - 10, size), size=size, anchor="end")
            canvas.text(left + middle, top + side + 10, shortened(name, cell - 2, size), "muted", size, "middle")

    def most_confused(self, count: int) -> list[tuple[str, str, int, float]]:
        """Lists the pairs confused most often: label, prediction, count, share of the label's examples."""
        counts = np.array(self.counts)
        totals = counts.sum(1)
        np.fill_diagonal(counts, 0)
        order = np.argsort(counts, axis=None, kind="stable")[::-1][:count]
        pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
        return [
            (self.class_names[label], self.class_names[prediction], int(number), float(number / totals[label]))
            for label, prediction in pairs
            if (number := counts[label, prediction])
        ]


@dataclass
class Reliability:
    """Shows how often predictions of each confidence are right; holds plain types only.

    Attributes:
        counts: Number of predictions in each bin of confidence; the bins are equally wide.
        correct: Number of right predictions in each bin.
        confidence: Sum of the confidences in each bin.
    """

    counts: list[float]
    correct: list[float]
    confidence: list[float]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in units."""
        return 420, 420

    @property
    def expected_calibration_error(self) -> float:
        """The gap between confidence and accuracy, averaged over all predictions."""
        gaps = sum(abs(right - sure) for right, sure in zip(self.correct, self.confidence, strict=True))
        return gaps / max(sum(self.counts), 1)

    def draw(self, canvas: Canvas) -> None:
        """Draws the accuracy in each bin of confidence beside the diagonal, and its number of predictions."""
        left, top, side = 46.0, 46.0, 300.0
        bins, most = len(self.counts), max(max(self.counts), 1)

        def at(x: float, y: float) -> tuple[float, float]:
            return left + side * x, top + side * (1 - y)

        error = 100 * self.expected_calibration_error
        canvas.text(left, 14, f"expected calibration error {error:.1f} %", size=13)
        canvas.text(left, 32, "accuracy by confidence; below the diagonal: too sure of itself", "muted", 11)
        for value in (0, 0.25, 0.5, 0.75, 1):
            canvas.line([at(0, value), at(1, value)], "grid")
            canvas.text(left - 8, at(0, value)[1], f"{value:g}", "muted", 11, "end")
            canvas.text(at(value, 0)[0], top + side + 14, f"{value:g}", "muted", 11, "middle")
        for index, (count, right) in enumerate(zip(self.counts, self.correct, strict=True)):
            if count:
                x, y = at(index / bins, right / count)
                title = f"{count:.0f} predictions, {100 * right / count:.0f} % right"
                canvas.rectangle(x + 1, y, side / bins - 2, at(0, 0)[1] - y, "accent", 0.75, title)
            height = 34 * count / most
            canvas.rectangle(at(index / bins, 0)[0] + 1, 412 - height, side / bins - 2, height, "muted", 0.5)
        canvas.line([at(0, 0), at(1, 1)], "second", 1.5)
        canvas.text(left + side + 8, top + side + 14, "confidence", "muted", 11)
        canvas.text(left + side + 8, 405, "predictions", "muted", 11)


def ticks(start: float, end: float, count: int) -> Iterable[float]:
    """Chooses round numbers from start to end, about ``count`` of them."""
    span = max(end - start, 1e-12)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def thinned(entries: Sequence[tuple[int, list[float]]], most: int) -> list[tuple[int, list[float]]]:
    """Drops every second entry if there are more than ``most``, but keeps the first and the last."""
    return [*entries[:-1:2], entries[-1]] if len(entries) > most else list(entries)


def _rate_opacity(share: float) -> float:
    # Discriminative learning rates and schedules span orders of magnitude. The smallest must still differ from grey.
    return 0.15 + 0.85 * math.sqrt(share)
