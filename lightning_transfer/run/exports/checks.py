"""Compares what was written with the module that it came from."""

from pathlib import Path
from typing import Any

import torch

from lightning_transfer.errors import UserError
from lightning_transfer.run.exports.answers import Axes, Exported
from lightning_transfer.run.exports.programs import Format, Run, with_fixed_images, write_program

TOLERANCE = 1e-5
_OF_ONE_SIZE = ("SwinTransformer",)  # torch's trace of its padded windows with free sizes takes over four minutes


def write_and_compare(exported: Exported, format: Format, folder: Path) -> tuple[Axes, dict[str, Any]]:
    """Writes a program and compares it with its module, with images of one size where it is right with no other.

    Some networks take one size alone. ONNX has no adaptive pooling, for example: where its output has several pixels,
    the size of its input is traced.

    Args:
        exported: The module.
        format: What to write.
        folder: Where.

    Returns:
        The dimensions that may have any size, and the figures of :func:`compare`.

    Raises:
        UserError: As from :func:`write_program` and :func:`compare`.
    """
    fixed = with_fixed_images(exported)
    if not _takes_other_sizes(exported):  # torch would trace it with any size nonetheless, for minutes
        exported = fixed
    axes, run = write_program(exported, format, folder)
    try:
        return axes, compare(exported, axes, run)
    except UserError:
        if axes == fixed.axes:
            raise
        axes, run = write_program(fixed, format, folder)
        return axes, compare(fixed, axes, run)


def _takes_other_sizes(exported: Exported) -> bool:
    """Says whether the module itself runs on other lengths of texts, or sizes of images, and is traced with them."""
    if any(type(module).__name__ in _OF_ONE_SIZE for module in exported.answers.modules()):
        return False
    try:
        with torch.inference_mode():
            for number in (1, 2):
                exported.answers(*exported.examples(1, number))
    except Exception:  # networks raise many kinds for a size that is not theirs
        return False
    return True


def compare(exported: Exported, axes: Axes, run: Run) -> dict[str, Any]:
    """Runs a program beside its module, on batches of three sizes, and of three lengths or image sizes.

    Args:
        exported: The module.
        axes: The dimensions that may have any size.
        run: Runs the program.

    Returns:
        The largest difference of a probability or number, of all batches and of each.

    Raises:
        UserError: If the program does not run on a batch, or differs by more than 1e-5 of the larger of 1 and the
            number.
    """
    figures = []
    for inputs in exported.all_examples(axes):
        shapes = {name: list(tensor.shape) for name, tensor in zip(exported.input_names, inputs, strict=True)}
        with torch.inference_mode():
            expected = exported.answers(*inputs)
            try:
                found = run(inputs)
            except Exception as error:  # runtimes raise many kinds
                raise UserError(
                    f"the export does not run on inputs {shapes}: {str(error).splitlines()[0]}; --format safetensors"
                    " writes the weights"
                ) from error
        difference = ((found - expected).abs() / expected.abs().clamp_min(1)).max().item()
        if found.shape != expected.shape or not difference <= TOLERANCE:
            raise UserError(
                f"the export gives other numbers than the module on inputs {shapes}: they differ by {difference:.2g},"
                f" expected at most {TOLERANCE:g}; --format safetensors writes the weights"
            )
        figures.append({"inputs": shapes, "max_difference": difference})
    largest = max(figure["max_difference"] for figure in figures)
    return {"max_difference": largest, "tolerance": TOLERANCE, "batches": figures}
