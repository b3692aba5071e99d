"""Does the seven tasks of docs/tasks.md with this package, with fastai and with the Trainer of Hugging Face.

Each program of ``compare_programs`` runs as it stands, in a folder of its own with the same files: generated pictures
of two classes, a network, tensors, and random weights in the place of ImageNet's. What it leaves must be right for most
examples that were held out. ``pip install fastai`` adds fastai; without it the others are measured.
"""

import ast
import builtins
import csv
import functools
import importlib.util
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import models

from benchmarks.measure import Part, Row, Settings, described

PROGRAMS = Path(__file__).parent / "compare_programs"
REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"lightning-transfer": "lightning_transfer", "fastai": "fastai", "transformers": "transformers"}
TASKS = {
    "class_folders": "Transfer to class folders of my own",
    "predict_folder": "Predict a folder",
    "load_and_predict": "Load and predict from Python",
    "my_module": "My nn.Module",
    "my_data": "My DataModule with (x, y)",
    "wandb_offline": "Weights & Biases, offline",
    "three_strategies": "Compare three strategies",
}
AFTER_TRAINING = ("predict_folder", "load_and_predict")  # these need what class_folders leaves
# Words that a user chooses: files, columns, results. All others are counted.
OWN = {"pictures", "new", "png", "csv", "my_model", "my_network", "Network", "my_data", "Data", "my_examples", "true"}
OWN |= {"training", "validation"}
OWN_STRINGS = {"file", "class", "accuracy", "scratch", "full", "gradual"}  # of the Python programs
KINDS = ("cat", "dog")
NETWORK = """from torch import nn


class Network(nn.Sequential):
    def __init__(self, num_classes):
        body = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        super().__init__(*body, nn.Linear(256, num_classes))
"""
EXAMPLES = """import torch
from torch.utils.data import TensorDataset

labels = torch.arange(150) % 2
images = torch.rand(150, 3, 64, 64, generator=torch.Generator().manual_seed(0))
images[range(150), labels] += 2  # the first class is redder, the second greener
training, validation = TensorDataset(images[30:], labels[30:]), TensorDataset(images[:30], labels[:30])
"""


def measure(task: str, settings: Settings) -> list[Row]:
    """Runs the programs of a task in turns, and counts their lines, words and CPU seconds."""
    libraries = [library for library, module in MODULES.items() if importlib.util.find_spec(module)]
    seconds: dict[str, list[float]] = {library: [] for library in libraries}
    for _ in range(settings.repeats):
        for library in libraries:
            files = trained(library) if task in AFTER_TRAINING else workplace() / "files"
            seconds[library].append(run(task, library, files, workplace() / "run"))
            shutil.rmtree(workplace() / "run")
    rows: list[Row] = []
    for library in libraries:
        lines, known = count(task, library)
        times = {"CPU s, best": min(seconds[library]), "median": statistics.median(seconds[library])}
        rows.append({"with": library, "lines": lines, "words": known, **times})
    return rows


@functools.cache
def _workplace() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory()
    make_files(Path(folder.name, "files"))
    return folder


def workplace() -> Path:
    """Makes the folder of all runs, at the first call. Its folder ``files`` is what every task starts from."""
    return Path(_workplace().name)


def trained(library: str) -> Path:
    """Trains with a library, at the first call, and gives the folder with what the training left."""
    folder = workplace() / library
    if not folder.exists():
        run("class_folders", library, workplace() / "files", folder)
    return folder


def programs(task: str, library: str) -> list[Path]:
    """Finds the files of a task: a program in Python, shell commands, or commands beside a file in Python."""
    return sorted(PROGRAMS.glob(f"{task}.{library}.*"))


def make_files(folder: Path) -> None:
    """Makes what every task starts from: pictures, new pictures, weights, a network and tensors."""
    generator = np.random.default_rng(0)
    for number in range(180):
        values = generator.integers(0, 100, (64, 64, 3), dtype=np.uint8)
        values[:, :, number % 2] += 120  # cats are redder, dogs greener
        file = folder / (f"new/{number - 150}.png" if number >= 150 else f"pictures/{KINDS[number % 2]}/{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(file)
    (folder / "my_network.py").write_text(NETWORK)
    (folder / "my_examples.py").write_text(EXAMPLES)
    torch.manual_seed(0)
    weights = folder / "hub" / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    weights.parent.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), weights)
    make_hub_model(folder / "resnet-18")


def make_hub_model(folder: Path) -> None:
    """Makes what transformers would download, with the size of pictures that the other libraries are told."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000)
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0).save_pretrained(folder)


def run(task: str, library: str, files: Path, folder: Path) -> float:
    """Runs a program in a copy of a folder, checks what it did, and gives the CPU seconds of all its processes.

    Raises:
        RuntimeError: If the program fails, or does not do its task.
    """
    shutil.copytree(files, folder)
    for program in programs(task, library):
        shutil.copy(program, folder / f"{task}{program.suffix}")
    command = [sys.executable, f"{task}.py"]
    if (folder / f"{task}.sh").exists():
        function = f'lightning-transfer() {{ "{sys.executable}" -m lightning_transfer "$@"; }}'
        command = ["bash", "-ec", f"{function}; . ./{task}.sh"]
    # Nothing is downloaded or sent, and no account of the developer is used.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HF_"))}
    environment |= {name: str(folder / "cache") for name in ("LIGHTNING_TRANSFER_CACHE", "HF_HOME")}
    environment |= {"TORCH_HOME": str(folder), "NETRC": "none", "WANDB_ERROR_REPORTING": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{task} with {library} failed:\n{done.stdout}\n{done.stderr}")
    accuracy = accuracy_of(task, folder, done.stdout)
    if not accuracy >= 0.75:
        raise RuntimeError(f"{task} with {library}: accuracy is {accuracy}: expected 0.75 or more\n{done.stdout}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def accuracy_of(task: str, folder: Path, printed: str) -> float:
    """Finds the accuracy on examples that were held out, in what a program wrote or printed; nan if there is none."""
    if task == "predict_folder":
        rows = list(csv.DictReader((folder / "new.csv").read_text().splitlines()))
        right = [row["class"] == KINDS[int(Path(next(iter(row.values()))).stem) % 2] for row in rows]
        return sum(right) / len(right) if len(right) == 30 else float("nan")
    if task == "load_and_predict":
        # These are the labels alone, or two lists that begin with the best. Then this package lists the classes.
        named = re.findall("|".join(KINDS), printed.partition("class_names")[0])
        return float(len(named) in (2, 4) and named[:: len(named) // 2] == [KINDS[1], KINDS[0]])
    if task == "three_strategies":
        found = dict(re.findall(r"^(scratch|full|gradual) +(\d\.\d+)", printed, re.MULTILINE))
        return max(map(float, found.values())) if len(found) == 3 else float("nan")
    if task == "wandb_offline":
        [tracked] = folder.glob("**/wandb/offline-run-*/*.wandb")
        if b"accuracy" not in tracked.read_bytes():
            return float("nan")
    for record in folder.glob("logs/*/version_0/results.json"):
        return float(json.loads(record.read_text())["validation"]["val/accuracy"])
    # The column of fastai's table before the time, or the Trainer's metric.
    found = re.findall(r"^\d+ .*?(\d\.\d+) +\d\d:\d\d\s*$|eval_accuracy'?: *'?(\d(?:\.\d+)?)", printed, re.MULTILINE)
    return float("".join(found[-1])) if found else float("nan")


def count(task: str, library: str) -> tuple[int, int]:
    """Counts the lines and the words of the files of a task."""
    texts = [(file.suffix, file.read_text()) for file in programs(task, library)]
    return sum(count_lines(text) for _, text in texts), len(set().union(*(words(*text) for text in texts)))


def count_lines(text: str) -> int:
    """Counts the lines that are neither empty nor a comment."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())


def words(suffix: str, text: str) -> set[str]:
    """Finds the words that a reader must know: all but Python's own, numbers, and what the user names.

    Commands, options and their values count as well as modules, names, arguments, methods that a library calls, and the
    words in strings. At a dot, a slash or a blank another word begins.
    """
    if suffix == ".sh":
        return set(split(text)) - OWN
    names: set[str] = set()  # these may be the user's
    known: set[str] = set()
    own = OWN_STRINGS | set(dir(builtins))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            (own if isinstance(node.ctx, ast.Store) else names).add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(split(node.value))
        elif isinstance(node, ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.ClassDef):
            own.add(node.name)
            known |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            assigned = [part for part in node.body if isinstance(part, ast.Assign)]
            known |= {target.id for part in assigned for target in part.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute):
            known.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            known.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            known.update(split(node.module or ""))
        elif isinstance(node, ast.alias):
            known.update(split(node.name))
    return (names - own | known) - OWN


def split(text: str) -> list[str]:
    """Splits a text into words, which begin with a letter and may have digits and hyphens."""
    return re.findall(r"[A-Za-z_][\w-]*", text)


PARTS: dict[str, Part] = {
    task: described(functools.partial(measure, task), f"Does a task of docs/tasks.md with three libraries: {what}.")
    for task, what in TASKS.items()
}
