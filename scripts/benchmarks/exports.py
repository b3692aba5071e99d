"""Measures exports: that each network's ONNX file gives its numbers at any size, and how fast torch, ONNX and int8 are.

It takes every network of this package, and one of each family of torchvision, with random weights.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn

from benchmarks.measure import Part, Row, Settings
from lightning_transfer import (
    Classifier,
    FastCNN,
    ImageDataModule,
    LSTMClassifier,
    SeedCNN,
    TextDataModule,
    TimmNetwork,
    TorchvisionNetwork,
    TransformersNetwork,
    UserError,
)
from lightning_transfer.data.tokenizer import train_tokenizer
from lightning_transfer.run.exports.answers import Exported, exported_of
from lightning_transfer.run.exports.checks import write_and_compare
from lightning_transfer.run.exports.integers import write_integers
from lightning_transfer.run.predictor import Member

_CLASSES = 10
_WORDS = 1000
_FILES = {"ONNX": "model.onnx", "int8": "model.int8.onnx"}
_MINILM = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
_MINILM |= {"intermediate_size": 1536, "max_position_embeddings": 512}
# One of each family of torchvision: the smallest, at a size of images that it takes, in pixels.
_FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("swin_t", "vgg11", "vit_b_16", "maxvit_t"),
)
# With settled batch norms their random weights magnify the rounding to float32 beyond 1e-5.
_UNSETTLED = ("inception_v3", "mnasnet0_5")


def _networks() -> dict[str, tuple[Callable[[], nn.Module], int | None]]:
    """By name what builds a network, and its size of images; None for texts."""
    found: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
        "SeedCNN": (lambda: SeedCNN(_CLASSES), 32),
        "LSTMClassifier": (lambda: LSTMClassifier(_WORDS, num_classes=_CLASSES), None),
        "FastCNN": (lambda: FastCNN(_CLASSES), 32),
        "TransformersNetwork, MiniLM": (
            lambda: TransformersNetwork(_CLASSES, vocabulary_size=_WORDS, model_arguments=_MINILM),
            None,
        ),
        "TimmNetwork, resnet18": (lambda: TimmNetwork(_CLASSES, "resnet18"), 96),
    }
    for name in _FAMILIES:
        arguments = {"image_size": 96} if name == "vit_b_16" else {}
        found[name] = (
            lambda name=name, arguments=arguments: TorchvisionNetwork(_CLASSES, name, model_arguments=arguments),  # type: ignore[misc]
            224 if name == "maxvit_t" else 96,
        )
    return found


def latency(settings: Settings) -> list[Row]:
    """Milliseconds of one example on one thread, the best turn of 30: torch, ONNX Runtime in float32 and in int8."""
    networks = _networks()
    chosen = [*networks][: settings.scaled(len(networks), 2)]
    return [_row(name, _exported(*networks[name], name not in _UNSETTLED), settings) for name in chosen]


def _exported(build: Callable[[], nn.Module], size: int | None, is_settled: bool) -> Exported:
    torch.manual_seed(0)
    network = build()
    state = {"place": {}, "class_names": [str(number) for number in range(_CLASSES)], "run_seed": 0}
    data: Any
    if size is None:
        data = TextDataModule("nowhere")
        words = " ".join(f"word{number}" for number in range(_WORDS))
        data.load_state_dict({**state, "tokenizer": train_tokenizer([words], "words", _WORDS).to_str()})
    else:
        data = ImageDataModule("nowhere")
        data.load_state_dict({**state, "image_size": size, "mean": [0.5] * 3, "std": [0.25] * 3})
    exported = exported_of(Member("run", Classifier(network, _CLASSES), data, Precision(), torch.device("cpu")))
    if size is not None and is_settled:
        _settle(network, exported.examples(8)[0])
    return exported


def _settle(network: nn.Module, images: Tensor) -> None:
    """Gives batch norms the statistics of a batch. Without them a deep network answers all inputs alike."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches so far, which is this one
    with torch.no_grad():
        network.train()(images)
    network.eval()


def _row(name: str, exported: Exported, settings: Settings) -> Row:
    """Exports a network, checks the file, and measures; what cannot be had is said by a dash."""
    inputs = exported.examples(1)
    with torch.inference_mode():
        varies = exported.answers(*exported.examples(5)).std(0).max().item()
    row: Row = {"network": name, "input": str([*inputs[0].shape]), "free": "-", "varies by": varies, "differs by": "-"}
    row |= dict.fromkeys(("torch, ms", "ONNX, ms", "int8, ms", "ONNX, MB", "int8, MB"), "-")
    runs: dict[str, Callable[..., Any]] = {"torch": lambda inputs: exported.answers(*inputs)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            axes, figures = write_and_compare(exported, "onnx", Path(folder))
            row["free"] = ", ".join(sorted({free for of_input in axes for free in of_input.values()}))
            row["differs by"] = figures["max_difference"]
            sample = exported.examples(16)[0] if exported.input_names == ["images"] else None
            write_integers(Path(folder, "model.onnx"), exported.input_names, sample)
        except UserError as error:
            print(f"{name}: {error}")
        for kind, file in _FILES.items():
            if (written := Path(folder, file)).exists():
                row[f"{kind}, MB"] = written.stat().st_size / 1e6
                runs[kind] = _on_one_thread(written, exported.input_names)
        for kind, found in _seconds(runs, inputs, settings.scaled(30, 2)).items():
            row[f"{kind}, ms"] = 1000 * min(found)
    print(*row.values(), sep="  ", flush=True)  # the whole table takes long
    return row


def _on_one_thread(file: Path, input_names: list[str]) -> Callable[..., Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(
        None, {name: given.numpy() for name, given in zip(input_names, inputs, strict=True)}
    )


def _seconds(runs: dict[str, Callable[..., Any]], inputs: tuple[Tensor, ...], turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    with torch.inference_mode():
        for turn in range(turns + 3):
            for kind, run in runs.items():
                start = time.perf_counter()
                run(inputs)
                if turn >= 3:  # the first ones fill caches
                    seconds[kind].append(time.perf_counter() - start)
    return seconds


PARTS: dict[str, Part] = {"latency": latency}
