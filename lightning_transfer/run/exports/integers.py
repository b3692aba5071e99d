"""Writes an ONNX file once more with weights of 8 bits, by ONNX Runtime, which also chooses their scales."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lightning_transfer.errors import UserError
from lightning_transfer.run.exports.programs import Run, run_of_onnx

Method = Literal["static", "dynamic"]

FILE = "model.int8.onnx"
_OF_TEXTS = ["MatMul", "Gemm", "LSTM"]  # operators whose numbers get their scales while they are computed
_INTEGER = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM")  # one of these is in every such file
_AT_ONCE = 16  # images in a batch of the calibration


def write_integers(file: Path, input_names: list[str], sample: Tensor | None) -> tuple[Run, Method]:
    """Writes ``model.int8.onnx`` beside an ONNX file.

    Args:
        file: The ONNX file.
        input_names: Names of its inputs.
        sample: Training images, float32 [images, 3, height, width], on which the scales of all numbers are chosen.
            Without them weights alone have fixed scales, those of matrices and LSTMs.

    Returns:
        What runs the new file, and the method.

    Raises:
        UserError: If ONNX Runtime finds nothing in the file that it can write so, or fails.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, written = file.with_name("prepared.onnx"), file.with_name(FILE)
    logging.getLogger().addFilter(_is_error)
    try:
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        if sample is None:
            quantize_dynamic(prepared, written, op_types_to_quantize=_OF_TEXTS)
        else:
            quantize_static(str(prepared), str(written), _batches(input_names[0], sample), per_channel=True)
        operators = {node.op_type for node in onnx.load(written, load_external_data=False).graph.node}
    except Exception as error:  # the library raises many kinds
        line = str(error).partition("\n")[0]
        raise UserError(f"ONNX Runtime cannot write the file in int8: {line}; leave out --int8") from error
    finally:
        logging.getLogger().removeFilter(_is_error)
        prepared.unlink(missing_ok=True)
    if not operators.intersection(_INTEGER):
        raise UserError(f"ONNX Runtime writes none of {', '.join(sorted(operators))} in int8: leave out --int8")
    return run_of_onnx(written, input_names), "dynamic" if sample is None else "static"


def _batches(name: str, sample: Tensor) -> Any:
    """Gives the sample in batches, as the library asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Holds the place in the sample."""

        def __init__(self) -> None:
            starts = range(0, len(sample), _AT_ONCE)
            self._batches: Iterator[Tensor] = (sample[start : start + _AT_ONCE] for start in starts)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Gives the next batch, and None after the last."""
            batch = next(self._batches, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()


def _is_error(record: logging.LogRecord) -> bool:
    """Leaves out the library's advice, which is followed already, and what it says of every norm layer."""
    return record.levelno >= logging.ERROR
