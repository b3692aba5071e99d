"""What tests share: generated data in the shape of the real data, and a command line to call."""

import os
import signal
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from slurm_cluster import slurm  # noqa: F401  # a fixture

from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.files import MIRROR_VARIABLE

pytest.register_assert_rewrite("interruptions")
REPOSITORY = Path(__file__).parents[1]
if os.environ.get(MIRROR_VARIABLE):  # tests leave the folder that a relative path starts from
    folders = os.environ[MIRROR_VARIABLE].split(os.pathsep)
    os.environ[MIRROR_VARIABLE] = os.pathsep.join(str(Path(folder).resolve()) for folder in folders)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the files with most slow tests come first, so that no process works on one while the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this session, so that no test depends on an earlier one's."""
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ[CACHE_VARIABLE])


@pytest.fixture(scope="session", autouse=True)
def heard_signals() -> None:
    """Ctrl-C and the end of a terminal are heard, also where a shell or nohup has them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in an empty folder with the project's configs in it."""
    monkeypatch.setattr("sys.argv", ["lightning-transfer"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    return tmp_path


@pytest.fixture
def mirror() -> Path:
    """The folder with the real data sets, the first of the mirrors; without one the test is skipped."""
    folder = os.environ.get(MIRROR_VARIABLE)
    if not folder:
        pytest.skip(f"{MIRROR_VARIABLE} is not set: it names a folder with uoft-cs/cifar10 and others")
    return Path(folder.split(os.pathsep)[0])


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found but what the test makes."""
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)


def image_dataset(rows: int, num_classes: int = 3, seed: int = 0) -> datasets.Dataset:
    """Random 32 x 32 images in a bright colour of their class, the columns named as in CIFAR-10."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % num_classes
    images = generator.integers(0, 120, (rows, 32, 32, 3), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, :, :, label % 3] += 100
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=[f"class{c}" for c in range(num_classes)])}
    )
    return datasets.Dataset.from_dict({"img": list(images), "label": labels}, features=features)


def write_parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    """Writes splits as the Hub does: ``data/<split>-00000-of-00001.parquet``."""
    (folder / "data").mkdir(parents=True)
    for split, dataset in splits.items():
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image data set: 90 training and 30 test images in 3 classes."""
    root = tmp_path_factory.mktemp("images") / "set"
    return write_parquet(root, train=image_dataset(90), test=image_dataset(30, seed=1))


# A run of a second has all pictures with it.
UNBOUNDED = ("--dashboards.share", "null")


def fit_arguments(folder: Path, *more: str) -> list[str]:
    """A run of one epoch on the small image data set."""
    return [
        "fit",
        *("--data", "CIFAR10", "--data.path", str(folder), "--data.batch_size", "9"),
        *("--model.network", "SeedCNN"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false"),
        *more,
    ]


def run_folder(experiment: str = "default") -> Path:
    """The folder of the newest run of an experiment."""
    return max((Path("logs") / experiment).glob("version_*"), key=lambda folder: folder.stat().st_mtime)
