"""Measures a server under load, with bad requests among the good ones, beside a plain loop that predicts.

Each part trains a small run, starts ``lightning-transfer serve`` with its defaults, and has eight clients ask for two
minutes. Two of three requests are good, with one example each. Every good answer is compared with what ``load`` says.
"""

import base64
import http.client
import io
import itertools
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Part, Row, Settings, silence
from lightning_transfer import load
from lightning_transfer.cli.entry import main

_CLIENTS = 8


def images(settings: Settings) -> list[Row]:
    """Two minutes of images for SeedCNN, with broken, oversized and mistyped ones among them."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(32)]
    files = [_png(Image.fromarray(picture)) for picture in pictures]
    whole = base64.b64encode(files[0]).decode()
    wrong = (3, [], [3], ["/etc/passwd"], [whole[:800]], ["aGVsbG8="], ["A" * 11_000_000])
    large = base64.b64encode(_png(Image.new("1", (9000, 9000)))).decode()
    bad = ["{", "[" * 100_000, "null", *({"images": one} for one in [*wrong, [large]]), {"texts": ["a"]}]
    good = [{"images": [base64.b64encode(file).decode()]} for file in files]
    return _measured(settings, ["--config", "quickstart"], files, good, bad)


def texts(settings: Settings) -> list[Row]:
    """Two minutes of texts for an LSTM, with those of a million characters and mistyped ones among them."""
    words = ["a", "good", "bad", "dull", "fine", "poor", "film", "with", "no", "plot", "great", "actors"]
    draw = random.Random(0)
    examples = [" ".join(draw.choices(words, k=draw.randint(3, 60))) for _ in range(32)]
    bad = ["{", "[" * 100_000, "null", *({"texts": wrong} for wrong in (3, [], [3], [["a"]], ["a" * 1_000_000]))]
    good = [{"texts": [example]} for example in examples]
    arguments = ["--data", "DemoTexts", "--model.network", "LSTMClassifier"]
    return _measured(settings, arguments, examples, good, [*bad, {"texts": ["a " * 5_500_000]}])


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _measured(
    settings: Settings, arguments: list[str], examples: Sequence[object], good: list[object], bad: list[object]
) -> list[Row]:
    with tempfile.TemporaryDirectory() as logs:
        with silence():
            quick = ["--trainer.max_epochs", "1", "--dashboards", "null", "--test_after_fit", "false"]
            main(["fit", *arguments, "--logs", logs, "--trainer.accelerator", "cpu", *quick])
        [run] = Path(logs).glob("*/*")
        model = load(run)
        expected = [model.predict([example]).probabilities for example in examples]
        loop = _loop(model, examples, settings.scaled(10, 1))
        with _server(run) as (process, port):
            load_of = _Load(port, [json.dumps(body) for body in good], [_text(body) for body in bad], expected)
            load_of.run(settings.scaled(5, 1))  # the first requests fill caches
            load_of.forget()
            seconds = settings.scaled(120, 2)
            processes, memory = _processes(process.pid), [_memory(process.pid)]
            for _ in range(2):
                load_of.run(seconds / 2)
                memory.append(_memory(process.pid))
            died = len({*processes}.difference(_processes(process.pid)))
    count = len(load_of.seconds)
    figures: dict[str, str | float] = {
        "plain loop, good/s": loop,
        f"server with {_CLIENTS} clients, good/s": count / seconds,
        "bad/s": (load_of.statuses.total() - count) / seconds,
        "ms of a good one, median": 1000 * statistics.median(load_of.seconds),
        "ms of a good one, 99 %": 1000 * statistics.quantiles(load_of.seconds, n=100)[-1],
        "answers by status": " ".join(f"{status}:{number}" for status, number in sorted(load_of.statuses.items())),
        "wrong answers": load_of.wrong,
        "largest difference of a probability": load_of.difference,
        "processes that died": died,
        "MiB at first, half way and at last": ", ".join(f"{size:.1f}" for size in memory),
    }
    return [{"figure": name, "value": value} for name, value in figures.items()]


def _text(body: object) -> str:
    return body if isinstance(body, str) else json.dumps(body)


def _loop(model: Any, examples: Sequence[Any], seconds: float) -> float:
    """Predicts one example after the other; examples per second."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        model.predict([examples[count % len(examples)]])
        count += 1
    return count / (time.perf_counter() - start)


@contextmanager
def _server(run: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lightning_transfer", "serve", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while _status(port) != 200:
                if process.poll() is not None:
                    raise RuntimeError("the server has not started")
                time.sleep(0.2)
            yield process, port
        finally:
            process.terminate()


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _processes(process: int) -> list[int]:
    """The ids of a process and its children."""
    return [process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


def _memory(process: int) -> float:
    """Memory in MiB of a process and its children, without files: with what they share counted once."""
    files = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in _processes(process)]
    return sum(int(text.split("Pss_Anon:")[1].split()[0]) for text in files) / 1024


@dataclass
class _Load:
    """Asks a server, and notes what it answers.

    Attributes:
        statuses: How often each status came.
        seconds: How long each good request took.
        wrong: Answers to good requests that are none or another class, and to bad ones that are no refusal.
        difference: The largest difference of a probability.
    """

    port: int
    good: list[str]
    bad: list[str]
    expected: list[Any]
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    difference: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Starts to count again."""
        self.statuses, self.seconds, self.wrong, self.difference = Counter(), [], 0, 0.0

    def run(self, seconds: float) -> None:
        """Has all clients ask for some time."""
        end = time.perf_counter() + seconds
        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(lambda client: self._ask_until(end, client), range(_CLIENTS)))

    def _ask_until(self, end: float, client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for number in itertools.count(client):
            if time.perf_counter() > end:
                break
            is_bad = number % 3 == 0
            bodies = self.bad if is_bad else self.good
            place = number // (3 if is_bad else 1) * 7 % len(bodies)  # each body has its turn
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", bodies[place], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                status, content = answer.status, json.loads(answer.read())
            except (OSError, ValueError, http.client.HTTPException):
                connection.close()
                status, content = 0, {}
            with self.lock:
                self._note(is_bad, place, status, content, time.perf_counter() - start)
        connection.close()

    def _note(self, is_bad: bool, place: int, status: int, content: dict[str, Any], seconds: float) -> None:
        self.statuses[status] += 1
        if is_bad:
            self.wrong += not (400 <= status < 500 and set(content) == {"error"})
            return
        self.seconds.append(seconds)
        if status != 200:
            self.wrong += 1
            return
        found = torch.tensor([*content["predictions"][0]["probabilities"].values()])
        difference = float((found - self.expected[place][0]).abs().max())
        self.difference = max(self.difference, difference)
        self.wrong += difference > 1e-5


PARTS: dict[str, Part] = {"images": images, "texts": texts}
