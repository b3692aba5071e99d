"""Shows the range tests of the command ``lr-find``, one for each phase of the schedule, as a table and as a plot."""

from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_transfer.files import replacing
from lightning_transfer.report.charts import Chart, Line, draw_legend, legend_height
from lightning_transfer.report.drawing import PixelCanvas, png
from lightning_transfer.report.palette import series
from lightning_transfer.transfer.range_test import Curve


def write_curves(curves: Sequence[Curve], folder: Path, arguments: Container[str]) -> str:
    """Writes the curves as a picture and for TensorBoard.

    Args:
        curves: The measured curves.
        folder: Folder of ``lr_find.png`` and the event file.
        arguments: Names of the module's arguments, one of which may take a learning rate.

    Returns:
        The table for the terminal, with the suggestion for the whole training.
    """
    from torch.utils.tensorboard import SummaryWriter

    pixels = _drawn(curves)
    with replacing(folder / "lr_find.png") as partial:
        partial.write_bytes(png(pixels))
    with SummaryWriter(str(folder)) as writer:
        writer.add_image("lr_find", pixels, dataformats="HWC")
    return _table(curves, folder, arguments)


def _drawn(curves: Sequence[Curve]) -> np.ndarray:
    """Draws the loss over the learning rate, with a mark at each suggestion; uint8 [height, width, 3]."""
    lines, marks = [], []
    for number, curve in enumerate(curves):
        points = list(zip(curve.learning_rates, curve.losses, strict=True))
        suggested = points[curve.learning_rates.index(curve.suggestion)]
        lines.append(Line(curve.name, points, series(number)))
        marks.append(Line(curve.name, [suggested], series(number), number, is_joined=False))
    width, height = 720, 400
    keys = [replace(line, mark=number) for number, line in enumerate(lines)]
    label = "training loss, smoothed; the mark is the suggestion"
    canvas = PixelCanvas(width, height + 12 + legend_height(keys, width))
    chart = Chart([*lines, *marks], x_label="learning rate", y_label=label, has_log_x=True)
    chart.draw(canvas, 8, 4, width - 8, height)
    draw_legend(canvas, keys, 12, height + 4, width - 12)
    return canvas.pixels()


def _table(curves: Sequence[Curve], folder: Path, arguments: Container[str]) -> str:
    width = max(len(curve.name) for curve in curves)
    lines = [f"{curve.name:<{width}}  {curve.suggestion:.3g}" for curve in curves]
    # All phases share one learning rate, so it is the one that suits the most sensitive phase.
    suggestion = min(curve.suggestion for curve in curves)
    option = next((name for name in ("optimizer", "lr", "learning_rate") if name in arguments), None)
    flags = {"--model.init_args.optimizer.init_args.lr" if option == "optimizer" else f"--model.{option}": suggestion}
    if (factor := curves[0].sgd_lr_factor) is not None:
        flags["--model.init_args.optimizer.init_args.sgd_lr"] = factor * suggestion
    values = [f"{flag} {value:.3g}" for flag, value in flags.items()] if option else [f"{suggestion:.3g}"]
    return "\n".join([*lines, f"suggested: {' '.join(values)}", f"plot: {folder / 'lr_find.png'}"])
