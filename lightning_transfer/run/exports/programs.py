"""Writes programs: ONNX, torch.export's, or weights alone; and runs what was written."""

import copy
import json
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from lightning_transfer.errors import UserError
from lightning_transfer.run.exports.answers import BATCH_SIZES, Axes, Exported
from lightning_transfer.run.exports.recurrent import translations, with_onnx_layers
from lightning_transfer.run.verbosity import hushed

Format = Literal["onnx", "pt2", "safetensors", "hub"]
Run = Callable[[tuple[Tensor, ...]], Tensor]  # gives the answers of what was written to a batch

FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "pt2": "model.pt2",
    "safetensors": "model.safetensors",
    "hub": "model.safetensors",
}
_MAY_BE_FIXED = ("height", "width")
_WAY_OUT = "choose another --format: safetensors writes the weights of any network"


def write_program(exported: Exported, format: Format, folder: Path) -> tuple[Axes, Run]:
    """Writes a program into a folder.

    Args:
        exported: What to write.
        format: How.
        folder: Where; the file is that of :data:`FILES`.

    Returns:
        The dimensions of the inputs that may have any size, and what runs the file.

    Raises:
        UserError: If the network cannot be traced, or only with a fixed number of examples or tokens.
    """
    file = folder / FILES[format]
    if format in ("safetensors", "hub"):
        return _without(exported.axes, _MAY_BE_FIXED), _write_weights(exported, file)
    traced = with_onnx_layers(exported.answers) if format == "onnx" else exported.answers
    axes, program = _trace(exported, traced)
    if format == "pt2":
        torch.export.save(program, file)
        module = torch.export.load(file).module()
        return axes, lambda inputs: module(*inputs)
    return axes, _write_onnx(exported, program, axes, file)


def with_fixed_images(exported: Exported) -> Exported:
    """Gives the same with images of one size."""
    return exported._replace(axes=_without(exported.axes, _MAY_BE_FIXED))


def _trace(exported: Exported, module: nn.Module) -> tuple[Axes, ExportedProgram]:
    """Traces a module, and finds the dimensions that stayed free. Torch says nothing of those that it fixes."""
    shapes = tuple(dict.fromkeys(of_input, Dim.AUTO) for of_input in exported.axes)
    try:
        with torch.no_grad(), _quiet():
            examples = exported.examples(BATCH_SIZES[0])
            program = torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises many kinds
        raise UserError(f"{_name(exported)} cannot be traced: {_first_line(error)}; {_WAY_OUT}") from error
    nodes = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    sizes = [node.meta["val"].shape for node in nodes]
    fixed = {
        name
        for shape, of_input in zip(sizes, exported.axes, strict=True)
        for place, name in of_input.items()
        if not _is_free(shape[place], program.range_constraints, exported.most_of(name))
    }
    if wrong := sorted(fixed - {*_MAY_BE_FIXED}):
        raise UserError(f"{_name(exported)} cannot be traced without fixing its {' and '.join(wrong)}; {_WAY_OUT}")
    return _without(exported.axes, _MAY_BE_FIXED if fixed else ()), program


def _quiet() -> AbstractContextManager[None]:
    """Leaves out the warnings of torch, tracebacks among them where it cannot bound a size: the program is checked."""
    return hushed("torch.fx.experimental.symbolic_shapes", logging.ERROR)


def _is_free(size: Any, ranges: Mapping[Any, Any], most: int) -> bool:
    """Says whether a traced size may be any number. Torch bounds some, as where a feature map has one pixel."""
    if is_concrete_int(size):
        return False
    bounds = ranges.get(size.node.expr)
    return bounds is None or bool(bounds.upper >= most)


def _without(axes: Axes, names: Collection[str]) -> Axes:
    return tuple({place: name for place, name in of_input.items() if name not in names} for of_input in axes)


def run_of_onnx(file: Path, input_names: list[str]) -> Run:
    """Gives what runs an ONNX file on the CPU.

    Args:
        file: The file.
        input_names: The names of its inputs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        arrays = dict(zip(input_names, (tensor.numpy() for tensor in inputs), strict=True))
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def _write_onnx(exported: Exported, program: ExportedProgram, axes: Axes, file: Path) -> Run:
    import onnx

    with _quiet():
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                dynamic_shapes=axes,
                input_names=exported.input_names,
                output_names=[exported.output_name],
                custom_translation_table=translations(),
            )
        except Exception as error:  # the exporter raises many kinds
            raise UserError(f"{_name(exported)} cannot be written as ONNX: {_first_line(error)}; {_WAY_OUT}") from error
    written.save(file)
    onnx.checker.check_model(str(file))
    return run_of_onnx(file, exported.input_names)


def _write_weights(exported: Exported, file: Path) -> Run:
    from safetensors.torch import load_file, save_file

    network = exported.answers.classifier.network
    # Copies, because tensors that share memory are refused.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", "classes": json.dumps(exported.data.class_names)}
    save_file(state, file, metadata)
    file.chmod(file.parent.stat().st_mode & 0o666)  # the library lets the owner alone read it
    restored = copy.deepcopy(exported.answers)
    with torch.no_grad():
        for tensor in restored.classifier.network.state_dict().values():
            tensor.zero_()
    restored.classifier.network.load_state_dict(load_file(file))
    return lambda inputs: restored(*inputs)


def _name(exported: Exported) -> str:
    return type(exported.answers.classifier.network).__name__


def _first_line(error: Exception) -> str:
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return words if len(words) < 200 else f"{words[:200]} ..."
