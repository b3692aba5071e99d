"""Measures what the dashboards cost a run of the classic network on CIFAR-10, in batches of 128.

It needs CIFAR-10, from a mirror or the Hub; with --quick it takes the embedded images.
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
    """Adds up the CPU time that the dashboards take within their hooks, by callback."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def callbacks(self, settings: Dashboards, *arguments: Any) -> list[L.Callback]:
        """Builds the dashboards, with a clock around each of their hooks."""
        built = _BUILD(settings, *arguments)
        for callback in built:
            for name in dir(L.Callback):
                if name.startswith("on_") and getattr(type(callback), name) is not getattr(L.Callback, name):
                    setattr(callback, name, self._timed(type(callback).__name__, getattr(callback, name)))
        return built

    def _timed(self, name: str, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **options: Any) -> None:
            start = time.thread_time()
            hook(*arguments, **options)
            self.seconds[name] += time.thread_time() - start

        return timed


_BUILD = Dashboards.callbacks


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


PARTS: dict[str, Part] = {"hooks": hooks, "runs": runs}
