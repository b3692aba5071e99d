"""Compares what was written with the module that it came from."""

from typing import Any

import torch

from lightning_transfer.errors import UserError
from lightning_transfer.run.exports.answers import Axes, Exported
from lightning_transfer.run.exports.programs import Run

TOLERANCE = 1e-5


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
