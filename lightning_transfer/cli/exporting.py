"""Implements ``lightning-transfer export``: it writes a run for programs without this package."""

import shlex
from pathlib import Path
from typing import Any, get_args

from lightning_transfer.cli.loading import files_of, load
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.quantisation import held_out_of, quantise
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.data.texts import TextDataModule
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.files import check_folder, read_json, replacing, write_json, write_text
from lightning_transfer.report.model_card import model_card
from lightning_transfer.run.config_files import read_yaml
from lightning_transfer.run.exports.answers import Axes, Exported, exported_of
from lightning_transfer.run.exports.checks import write_and_compare
from lightning_transfer.run.exports.programs import FILES, Format
from lightning_transfer.run.verbosity import print_result


def export_run(
    run: Path, format: Format = "onnx", output: Path | None = None, licence: str | None = None, int8: bool = False
) -> Path:
    """Writes the network of a run, what it needs to be used, and a model card into a folder.

    The weights are those of the best checkpoint, in float32. The number of examples is free, and so are the length of
    texts, and the size of images where the network allows it. An export that would fix the number of examples or the
    length of texts is refused. What was written is run beside the module: the differences are in export.json.

    Args:
        run: Folder of the run, such as logs/EXPERIMENT/VERSION.
        format: onnx (extra export), pt2 (torch.export), safetensors (weights alone), or hub (weights, as a folder for
            the Hugging Face Hub).
        output: The folder, which is replaced; export/FORMAT in the folder of the run if not given.
        licence: Identifier of the model's licence for the card, such as apache-2.0.
        int8: Whether to write model.int8.onnx besides, with --format onnx. Its loss is measured on the validation
            examples, or the test split where nothing is held out, which therefore have to be there.

    Returns:
        The folder.

    Raises:
        UserError: If the run cannot be loaded or exported.
    """
    run = Path(run)
    folder = Path(output) if output is not None else run / "export" / format
    _check(run, format, folder, int8)
    exported = exported_of(load(run, device="cpu").members[0])
    held_out = held_out_of(exported) if int8 else None
    with replacing(folder) as partial:
        partial.mkdir()
        axes, check = write_and_compare(exported, format, partial)
        command = shlex.join(["lightning-transfer", "export", str(run), "--format", format, *["--int8"] * int8])
        facts = {**_facts(exported, axes, format), "command": command, "check": check}
        if held_out is not None:
            facts["int8"] = quantise(exported, partial / FILES[format], *held_out)
        _write_beside(exported, facts, run, licence, partial)
    print_result(
        f"{folder}/{FILES[format]}: differs from the module by {check['max_difference']:.2g} at most, on"
        f" {len(check['batches'])} batches{_loss(facts)}",
        {"event": "export", "folder": str(folder), **facts},
    )
    return folder


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("export", export_run)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    export_run(**parser().parse_args(arguments).as_dict())


def _check(run: Path, format: str, folder: Path, int8: bool) -> None:
    """Checks, before any work, the run, the format with its libraries, and the folder."""
    if format not in get_args(Format):
        raise UserError(f"--format is {format}: expected {', '.join(get_args(Format))}")
    if int8 and format != "onnx":
        raise UserError(f"--int8 is given with --format {format}: expected onnx, whose runtime writes it")
    for library in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        require_library(library, "export --format onnx", "export")
    files_of(run)
    check_folder(folder.parent, "--output")
    if folder.exists() and not (folder / "export.json").exists():
        raise UserError(f"{folder} is there and holds no export: choose another folder with --output")


def _facts(exported: Exported, axes: Axes, format: Format) -> dict[str, Any]:
    """Says what the program is, takes and gives."""
    return {
        "format": format,
        "file": FILES[format],
        "network": type(exported.answers.classifier.network).__name__,
        "problem_type": exported.data.problem_type,
        "inputs": _inputs(exported, axes),
        "outputs": {exported.output_name: f"float32 [batch, {len(exported.data.class_names)}]"},
        "classes": [str(name) for name in exported.data.class_names],
        "preprocessing": "preprocessing.json",
        "data": exported.data.path,
    }


def _loss(facts: dict[str, Any]) -> str:
    """Says in a line what int8 loses."""
    if "int8" not in facts:
        return ""
    found = facts["int8"]
    name = next(name for name in ("accuracy", *found["float32"]) if name in found["float32"])
    return (
        f"\n{found['file']}: {name} {found['float32'][name]:.4f} in float32 and {found['int8'][name]:.4f} in int8, on"
        f" {found['examples']} examples of the {found['split']}"
    )


def _inputs(exported: Exported, axes: Axes) -> dict[str, str]:
    """Describes the inputs: ``int64 [batch, time]``."""
    found = {}
    for name, free, tensor in zip(exported.input_names, axes, exported.examples(2), strict=True):
        sizes = ", ".join(free.get(place, str(size)) for place, size in enumerate(tensor.shape))
        found[name] = f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"
    return found


def _write_beside(exported: Exported, facts: dict[str, Any], run: Path, licence: str | None, folder: Path) -> None:
    """Writes what lies beside the program."""
    write_json(folder / "export.json", facts)
    write_json(folder / "preprocessing.json", exported.data.preprocessing)
    if isinstance(exported.data, TextDataModule):
        write_text(folder / "tokenizer.json", exported.data.tokenizer.to_str())
    config = read_yaml(run / "config.yaml")
    write_json(folder / "config.json", _network(config, exported))
    results = run / "results.json"
    record = read_json(results) if results.exists() else {}
    write_text(folder / "README.md", model_card(f"{run.parent.name}, {run.name}", licence, facts, record))


def _network(config: dict[str, Any], exported: Exported) -> dict[str, Any]:
    """Says how the network is built: its class and arguments, and what followed from the data."""
    model = config["model"]  # which may build a network of its own
    network = model["init_args"].get("network", {name: model.get(name, {}) for name in ("class_path", "init_args")})
    if (of_model := getattr(exported.answers.classifier.network, "config", None)) is not None:
        network = {**network, "init_args": {**network.get("init_args", {}), "name": None, "model_arguments": of_model}}
    followed = {name: getattr(exported.data, name, None) for name in ("num_classes", "vocabulary_size")}
    return {"network": network, **{name: value for name, value in followed.items() if value is not None}}
