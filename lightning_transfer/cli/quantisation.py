"""Writes the int8 form of an export, and measures what it loses on examples that the run was not trained on."""

from pathlib import Path
from typing import Any

import torch

from lightning_transfer.cli.ensemble import Predictions, metrics
from lightning_transfer.data.batches import parts
from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.run.exports.answers import Exported
from lightning_transfer.run.exports.integers import FILE, write_integers

_CALIBRATION_EXAMPLES = 128


def quantise(exported: Exported, file: Path, split: str, loader: BatchLoader) -> dict[str, Any]:
    """Writes ``model.int8.onnx`` beside ``model.onnx``, and evaluates the module and the new file.

    Images are calibrated on 128 training images.

    Args:
        exported: What was exported.
        file: The file in float32.
        split: The name of the split to evaluate on.
        loader: Its batches.

    Returns:
        The method, the metrics of both, the largest difference of a probability or number, and the sizes in bytes.

    Raises:
        UserError: If the network cannot be written in int8.
    """
    data = exported.data
    sample = data.training_sample(_CALIBRATION_EXAMPLES) if isinstance(data, ImageDataModule) else None
    run, method = write_integers(file, exported.input_names, sample)
    labels, before, after = [], [], []
    with torch.inference_mode():
        for batch in loader:
            inputs, of_batch = parts(data.on_after_batch_transfer(batch, 0))
            labels.append(of_batch)
            before.append(exported.answers(*inputs))
            after.append(run(inputs))
    figures = [
        metrics(Predictions(torch.empty(0), torch.cat(labels), torch.cat(found), problem_type=data.problem_type))
        for found in (before, after)
    ]
    return {
        "file": FILE,
        "method": method,
        "calibration_examples": 0 if sample is None else len(sample),
        "split": split,
        "examples": sum(map(len, labels)),
        "float32": figures[0],
        "int8": figures[1],
        "max_difference": (torch.cat(before) - torch.cat(after)).abs().max().item(),
        "bytes": {name: (file.parent / name).stat().st_size for name in (file.name, FILE)},
    }


def held_out_of(exported: Exported) -> tuple[str, BatchLoader]:
    """Opens the data set of the run.

    Args:
        exported: What is exported.

    Returns:
        The batches of the validation, or of the test split where nothing is held out, after the split's name.

    Raises:
        UserError: If the data set cannot be read.
    """
    data = exported.data
    data.trainer = None  # that of the loading says that nothing has labels
    try:
        data.setup("validate")
        held_out = data.val_dataloader()
        if isinstance(held_out, BatchLoader):
            return "validation", held_out
        return "test", data.test_dataloader()
    except (UserError, OSError) as error:
        raise UserError(f"--int8 measures its loss on the data of the run: {error}") from error
