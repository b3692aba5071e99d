"""The figure of what a training changed, by layer group."""

from dataclasses import dataclass

from lightning_transfer.report.drawing import Canvas, shortened, text_width

_ROW, _TOP, _BAR = 26, 58, 200.0


@dataclass
class LayerGroupChanges:
    """Compares layer groups after a training with before; holds plain types only.

    Attributes:
        groups: Names of the layer groups, from input to head.
        distances: Norm of what was added to the weights of each group, as a share of the norm of the weights before.
        similarities: Linear CKA of the outputs of each group, 1 where they are as before; None where it has none.
        examples: Number of held-out examples that the outputs are of.
    """

    groups: list[str]
    distances: list[float]
    similarities: list[float | None]
    examples: int

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in units."""
        return 640, _TOP + _ROW * len(self.groups) + 12

    def draw(self, canvas: Canvas) -> None:
        """Draws a row for each layer group, the head on top: a bar for its distance, and one for its similarity."""
        left = min(150.0, max(60.0, *(text_width(name) + 18 for name in self.groups)))
        second = left + _BAR + 60
        canvas.text(8, 14, "What the training changed, by layer group", size=13)
        canvas.text(left, 38, "distance of the weights / their norm", "muted", 11)
        canvas.text(second, 38, "CKA of the outputs, 1 = as before", "muted", 11)
        longest = max(self.distances, default=0) or 1.0
        rows = zip(reversed(self.groups), reversed(self.distances), reversed(self.similarities), strict=True)
        for row, (name, distance, similarity) in enumerate(rows):
            y = _TOP + _ROW * row
            canvas.text(left - 8, y + 9, shortened(name, left - 14), anchor="end")
            canvas.rectangle(left, y, _BAR * distance / longest, 18, "second", title=f"{name}: {distance:.3g}")
            canvas.text(left + _BAR * distance / longest + 5, y + 9, f"{distance:.2g}", "muted", 11)
            if similarity is not None:
                length = _BAR * 0.7 * max(similarity, 0)
                canvas.rectangle(second, y, length, 18, "accent", title=f"{name}: {similarity:.3f}")
                canvas.text(second + length + 5, y + 9, f"{similarity:.2f}", "muted", 11)
