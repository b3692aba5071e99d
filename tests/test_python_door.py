"""The package as a library and as a wheel: what it exports and brings, its types, and the example of docs/python.md.

scripts/first_hour runs the commands of the README from a wheel in an empty folder.
"""

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import typing
import venv
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from jsonargparse import ArgumentParser

import lightning_transfer
from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.run.config_files import PACKAGED

CONFIGS = REPOSITORY / "configs"
# One use of every exported name, and the types that a checker must know of them.
EVERY_NAME = """
import warnings
from pathlib import Path

import lightning as L
import torch

import lightning_transfer as lt

images: list[L.LightningDataModule] = [
    lt.CIFAR10(batch_size=8, augmentation=lt.Augmentation(horizontal_flip=True), mixing=lt.Mixing(mixup_alpha=0.2)),
    lt.CIFAR100(labels="coarse"),
    lt.DemoImages(task="target", examples_per_class=4),
    lt.ImageDataModule("folder", image_size=32, views=lt.Views(blur_probability=0.5)),
]
texts: list[L.LightningDataModule] = [
    lt.IMDB(max_tokens=100, tokenizer="words"),
    lt.DemoTexts(task="source", validation_fraction=0.2),
    lt.TextDataModule("folder", text_column="review", reader=lt.ReaderOptions(separator=";")),
    lt.LanguageModelDataModule("folder", max_vocabulary_size=1000),
    lt.DemoTextStreams(tasks=("source",), segment_tokens=20),
    lt.MultiTaskDataModule({"films": lt.DemoTexts(task="source"), "restaurants": lt.DemoTexts()}, mixing="uniform"),
]
networks: list[torch.nn.Module] = [
    lt.SeedCNN(10),
    lt.FastCNN(10),
    lt.LSTMClassifier(100, hidden_size=8),
    lt.TorchvisionNetwork(10, "resnet18"),
    lt.TimmNetwork(10, "resnet18"),
    lt.TransformersNetwork(2, "folder", pooling="mean"),
    lt.TransformersLanguageModel(name="folder"),
]
classifier = lt.Classifier(lt.SeedCNN(10), num_classes=10, lr_schedule="cosine", lr_decay=2.6)
private = lt.PrivateClassifier(lt.SeedCNN(10), num_classes=10, target_epsilon=3.0, examples_at_once=8)
adversarial = lt.AdversarialClassifier(lt.LSTMClassifier(100), 2, label_smoothing=0.1, warmup_fraction=0.1)
multitask = lt.MultiTaskModule(lt.SeedCNN(12), {"fine": 10, "coarse": 2}, weighting="uncertainty", lr_decay=2.6)
losses: list[torch.nn.Module] = [lt.SimCLRLoss(0.2), lt.BarlowTwinsLoss(0.01), lt.SimSiamLoss()]
without_labels = lt.SelfSupervisedModule(lt.SeedCNN(10), 10, loss=losses[0], projector=[64, 32], warmup_fraction=0.1)
views: torch.Tensor = lt.TwoViewBatch(torch.zeros(0), torch.zeros(0)).images
language_model = lt.LanguageModel(lt.LSTMLanguageModel(100, dropout=0.1), lr_schedule="linear")
callbacks: list[L.Callback] = [
    lt.ProgressiveUnfreezing(phases=[lt.Phase(["head"], lt.Until(plateau=lt.Plateau("val/loss"))), lt.Phase(["*"])]),
    lt.EarlyStopping("val/loss"),
    lt.ExponentialMovingAverage(),
    lt.StartingPointPenalty(strength=0.1),
    lt.SpectralShrinkage(count=2),
    lt.WeightInterpolation(coefficients=[0, 0.5, 1]),
    lt.LowRankAdaptation(rank=4, dora=True),
    lt.LearningWithoutForgetting(temperature=2.0),
    lt.AdaptiveUnfreezing(threshold=0.3),
]
optimizer: torch.optim.Optimizer = lt.Muon(classifier.parameters(), lr=0.1)
lazy: torch.optim.Optimizer = lt.LazyAdam(adversarial.parameters(), lr=0.01)
strategy: L.pytorch.strategies.Strategy = lt.FullyShardedStrategy()
groups = lt.parameter_groups(classifier, ["network.*"], lr=0.1)
loaded: list[str] = lt.load_starting_weights(classifier, "best.ckpt").loaded
inputs: tuple[torch.Tensor, ...] = lt.ImageBatch(torch.zeros(0), torch.zeros(0), torch.zeros(0)).inputs
lengths: torch.Tensor = lt.TextBatch(*[torch.zeros(0)] * 4).lengths
tuning = lt.Tuning([0.1, 0.01], halving=lt.Halving(reduction=2))
study = lt.Study("mine", ["a.yaml"], weights={"a": lt.Pretraining(["b.yaml"])}, seeds=[0, 1], tuning=tuning)
page: Path = lt.run_study(study, workers=0)
best: Path = lt.run_sweep("mine", ["a.yaml"], lambda trial: {"model.lr_decay": 2.0}, trials=3).best
report: Path = lt.write_report(Path("logs"))
model: lt.Predictor = lt.load([Path("a"), "b"], device="cpu")
predicted: lt.Predicted = model.predict(["a.png"], batch_size=2)
explained: Path = lt.explain_run(Path("a"), ["a.png"], target="cat")
exported: Path = lt.export_run(Path("a"), "pt2", licence="apache-2.0")
lt.serve_run(Path("a"), port=8001, batch_size=1, max_pixels=1000)
names: list[str] = predicted.class_names
accuracy: float = lt.evaluate_ensemble([Path("a"), Path("b")], split="validation")["mean of 2"]["accuracy"]
loss: float = lt.make_soup([Path("a"), Path("b")], recipe="greedy")["soup of 2"]["loss"]
try:
    seconds = lt.run_transfer(strategies=["full"], seed=1, overrides={"trainer.max_epochs": 1})["full"]["fit_seconds"]
except lt.UserError as error:
    warnings.warn(str(error), stacklevel=1)
"""
MISTAKES = {
    "lt.Classifier(lt.SeedCNN(10), 10, nonsense=1)": 'Unexpected keyword argument "nonsense" for "Classifier"',
    "lt.CIFAR10(batch_sise=8)": 'Unexpected keyword argument "batch_sise" for "CIFAR10"',
    'lt.IMDB(max_tokens="many")': 'Argument "max_tokens" to "IMDB" has incompatible type "str"',
    "lt.LSTMClassifier(100, hiden_size=8)": 'Unexpected keyword argument "hiden_size" for "LSTMClassifier"',
    'lt.LanguageModel(lt.LSTMLanguageModel(9), lr_schedule="cosin")': 'Argument "lr_schedule" to "LanguageModel"',
    'lt.load("a").predict(3)': 'Argument 1 to "predict" of "Predictor" has incompatible type "int"',
    "lt.run_transfer(seeds=1)": 'Unexpected keyword argument "seeds" for "run_transfer"',
    "lt.SedCNN": 'Module has no attribute "SedCNN"',
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the package's wheel is installed, beside the libraries of this one."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: it builds the wheel")
    folder = tmp_path_factory.mktemp("elsewhere")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        folder,
    ]
    subprocess.run([*build, str(REPOSITORY)], check=True)
    venv.create(folder / "environment")
    python = folder / "environment" / "bin" / "python"
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    [wheel] = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", found]
    subprocess.run([*install, str(wheel)], check=True)
    Path(found, "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def installed(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the command that the wheel installs, in an empty folder without the clone, and returns what it prints."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    [script] = elsewhere.parents[1].rglob("bin/lightning-transfer")
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS", CACHE_VARIABLE) if name in os.environ}

    def run(*arguments: str, folder: str = ".") -> str:
        command = [elsewhere, script, *arguments]
        done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_wheel_has_every_config_and_an_editable_install_copies_none(elsewhere: Path) -> None:
    [inside] = elsewhere.parents[1].rglob("lightning_transfer/configs")
    files = {file.relative_to(inside) for file in inside.rglob("*") if file.is_file()}
    assert files == {file.relative_to(CONFIGS) for file in CONFIGS.rglob("*") if file.is_file()}


def test_editable_install_copies_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(REPOSITORY)
    with zipfile.ZipFile(tmp_path / build.build_editable(str(tmp_path))) as wheel:
        assert [name for name in wheel.namelist() if name.endswith(".yaml")] == []
        assert wheel.read("_lightning_transfer.pth").decode().strip() == str(REPOSITORY)
    assert PACKAGED == CONFIGS


@pytest.mark.slow
def test_types_of_the_installed_package_are_known_and_mistakes_are_found(elsewhere: Path) -> None:
    unused = [name for name in lightning_transfer.__all__ if f"lt.{name}" not in EVERY_NAME]
    assert unused == []
    Path("right.py").write_text(EVERY_NAME)
    Path("wrong.py").write_text("\n".join(["import lightning_transfer as lt", *MISTAKES]))
    # The settings are strict, and those of the check of the package, so that its cache of the libraries serves here.
    cache, settings = REPOSITORY / ".mypy_cache", REPOSITORY / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", cache]
    command += ["--python-executable", elsewhere]
    environment = {"PATH": os.environ["PATH"]}  # no PYTHONPATH: the package is the installed one
    done = subprocess.run(
        [*command, "right.py", "wrong.py"], capture_output=True, text=True, check=False, env=environment
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.split(": error: ")[0] for line in errors] == [f"wrong.py:{2 + row}" for row in range(len(MISTAKES))]
    for line, expected in zip(errors, MISTAKES.values(), strict=True):
        assert expected in line


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    tree = ast.parse(Path(lightning_transfer.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    shown = {alias.asname: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert shown == lightning_transfer._EXPORTS
    for name in lightning_transfer.__all__:
        assert getattr(lightning_transfer, name).__name__ == name
    assert set(lightning_transfer.__all__) <= set(dir(lightning_transfer))
    with pytest.raises(AttributeError, match="no attribute 'SedCNN'"):
        lightning_transfer.SedCNN  # noqa: B018


CLASSES = [getattr(lightning_transfer, name) for name in lightning_transfer.__all__ if name[0].isupper()]
HANDING_ON = [each for each in CLASSES if "kwargs" in getattr(vars(each).get("__init__"), "__annotations__", {})]
# What a class gives its base by itself, or takes without a checker's knowing.
OWN = {
    "DemoImages": {"path", "image_column"},
    "DemoTexts": {"path"},
    "DemoTextStreams": {"path", "train_splits"},
}


@pytest.mark.parametrize(
    "handing_on", [each for each in HANDING_ON if each.__module__.startswith("lightning_transfer")]
)
def test_arguments_that_are_handed_on_have_the_names_and_types_of_where_they_go(handing_on: type) -> None:
    kwargs = inspect.signature(handing_on).parameters["kwargs"]
    _, options = typing.get_args(kwargs.annotation)
    shown = typing.get_type_hints(options)
    taken: dict[str, Any] = {}
    for base in handing_on.__mro__[1:]:
        if base.__module__.startswith("lightning_transfer") and "__init__" in vars(base):
            named = {**inspect.signature(base).parameters}
            taken = {name: parameter.annotation for name, parameter in named.items() if name != "kwargs"} | taken
    own = set(inspect.signature(handing_on).parameters) | OWN.get(handing_on.__name__, set())
    assert shown == {name: annotation for name, annotation in taken.items() if name not in own}


def test_arguments_that_are_handed_on_keep_their_defaults_and_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(lightning_transfer.Classifier, "model", skip={"network"})
    assert parser.get_defaults().model.lr_schedule == "constant"
    parser.print_help()
    assert "Share of the training over which the learning rate first rises" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_example_runs_as_written() -> None:
    [program] = re.findall(r"```python\n(import.*?)```", (REPOSITORY / "docs" / "python.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy = float(re.findall(r"test/accuracy\D+([\d.]+)", done.stdout)[-1])
    assert accuracy > 0.5  # of six classes, from 40 images each


def test_line_that_names_a_missing_extra_works_without_an_index(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        require_library("timm", "TimmNetwork")
    line = shlex.split(str(raised.value).partition(": ")[2])
    assert line[0] == sys.executable
    command = [elsewhere, *line[1:], "--no-index", "--dry-run", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stdout + done.stderr


@pytest.mark.slow
def test_project_of_ones_own_runs_as_its_readme_says(installed: Callable[..., str]) -> None:
    installed("init", "project")
    readme = Path("project/README.md").read_text()
    assert len(readme.splitlines()) <= 10
    commands = [shlex.split(line)[1:] for line in readme.splitlines() if line.startswith("lightning-transfer ")]
    assert [command[0] for command in commands] == ["fit", "fit", "report"]
    for command in commands:
        installed(*command, folder="project")
    first, second = (json.loads(file.read_text()) for file in sorted(Path("project").rglob("results.json")))
    assert first["test"]["test/accuracy"] > 0.9
    assert second["init_from"].startswith("logs/experiment/first/")
    assert Path("project/logs/experiment/report.html").is_file()
