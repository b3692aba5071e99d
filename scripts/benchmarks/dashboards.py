"""Measures what the dashboards cost a run of the classic network on CIFAR-10, and runs of seconds.

``hooks`` and ``runs`` need CIFAR-10, from a mirror or the Hub; with --quick they take the embedded images.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import lightning as L

from benchmarks.cnn import CONFIGS
from benchmarks.measure import RATIO, Part, Row, Settings, silence
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.settings import Dashboards


def fit(settings: Settings, epochs: int, *arguments: str) -> float:
    """Trains the classic network and gives the CPU seconds of the whole command."""
    quick = ("--data", "DemoImages", "--data.train_fraction", "0.1") if settings.quick else ()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--config", str(CONFIGS / "cifar10_cnn.yaml")),
                *("--config", str(CONFIGS / "hardware" / "cpu.yaml")),
                *("--trainer.max_epochs", str(epochs), "--test_after_fit", "false", "--logs", logs),
                *quick,
                *arguments,
            ]
        )
    return time.process_time() - start


class Account:
    """Adds up the CPU time that the dashboards take within their hooks, by callback.

    Attributes:
        seconds: CPU seconds by callback.
        start: CPU time of the process at the start of the training.
        end: The same at its end.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.start = self.end = 0.0

    def callbacks(self, settings: Dashboards, *arguments: Any) -> list[L.Callback]:
        """Builds the dashboards, with a clock around each of their hooks."""
        built = _BUILD(settings, *arguments)
        for callback in built:
            kind = type(callback)
            names = [name for name in dir(L.Callback) if name.startswith("on_")]
            own = [name for name in names if getattr(kind, name) is not getattr(L.Callback, name)]
            timed = {name: self._timed(kind.__name__, getattr(kind, name)) for name in own}
            callback.__class__ = type(kind.__name__, (kind,), timed)  # a hook may be taken from an instance, and back
        return built

    def _timed(self, name: str, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **options: Any) -> None:
            start = time.process_time()
            self.start = self.start or start
            hook(*arguments, **options)
            self.end = time.process_time()
            self.seconds[name] += self.end - start

        return timed


_BUILD = Dashboards.callbacks

# Runs of seconds: what they are, and their arguments.
SHORT = {
    "embedded images, 3 epochs": ("--config", str(CONFIGS / "quickstart.yaml"), "--trainer.max_epochs", "3"),
    "embedded images, 12 epochs": ("--config", str(CONFIGS / "quickstart.yaml")),
    "embedded reviews, 8 epochs": ("--config", str(CONFIGS / "quickstart_text.yaml")),
    "EfficientNet-Lite0, 450 images of 96 px, 2 epochs": (
        *("--data", "DemoImages", "--data.image_size", "96", "--data.examples_per_class", "45"),
        *("--data.batch_size", "50", "--data.validation_fraction", "0.0625", "--trainer.max_epochs", "2"),
        *("--model.network", "TimmNetwork", "--model.network.name", "tf_efficientnet_lite0"),
    ),
}


def short(settings: Settings) -> list[Row]:
    """Measures the share of the dashboards in runs of seconds, with the bound and without."""
    rows: list[Row] = []
    for name, arguments in list(SHORT.items())[: settings.scaled(len(SHORT), 1)]:
        for share in ("0.03", "null"):
            account = Account()
            with (
                patch.object(Dashboards, "callbacks", lambda *given, account=account: account.callbacks(*given)),
                tempfile.TemporaryDirectory() as logs,
                silence(),
            ):
                cpu = ("--config", str(CONFIGS / "hardware" / "cpu.yaml"), "--test_after_fit", "false", "--logs", logs)
                main(["fit", *arguments, *cpu, "--dashboards.share", share])
            dashboards = sum(account.seconds.values())
            rest = account.end - account.start - dashboards
            row: Row = {"run": name, "dashboards.share": share, "CPU seconds of the rest of the fit": rest}
            rows.append({**row, "of the dashboards": dashboards, "share, %": 100 * dashboards / rest})
    return rows


def hooks(settings: Settings) -> list[Row]:
    """Measures CPU time in the hooks of each dashboard, and in the rest of the same run."""
    epochs = settings.scaled(10, 1)
    fit(settings, 1, "--dashboards", "null")  # does the imports and fills the caches
    account = Account()
    with patch.object(Dashboards, "callbacks", lambda *arguments: account.callbacks(*arguments)):
        total = fit(settings, epochs)
    dashboards = sum(account.seconds.values())
    rest = total - dashboards
    seconds = {"training without them": rest, "all dashboards": dashboards, **dict(account.seconds.most_common())}
    return [
        {"part": name, f"CPU seconds of {epochs} epochs": value, "of training, %": 100 * value / rest}
        for name, value in seconds.items()
    ]


def runs(settings: Settings) -> list[Row]:
    """Measures CPU seconds of whole runs with and without dashboards, in turns."""
    epochs = settings.scaled(10, 1)
    candidates: dict[str, tuple[str, ...]] = {"without": ("--dashboards", "null"), "with": ()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    fit(settings, 1)  # does the imports and fills the caches
    for _ in range(settings.repeats):
        for name, arguments in candidates.items():
            seconds[name].append(fit(settings, epochs, *arguments))
    ratios = [own / other for own, other in zip(seconds["with"], seconds["without"], strict=True)]
    return [
        {
            "dashboards": name,
            f"CPU seconds of {epochs} epochs, best": min(values),
            RATIO: statistics.median(ratios) if name == "with" else 1.0,
        }
        for name, values in seconds.items()
    ]


PARTS: dict[str, Part] = {"hooks": hooks, "runs": runs, "short": short}
