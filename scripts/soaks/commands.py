"""What each command has to do in a soak, and what it has done."""

import base64
import http.client
import io
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CPU = ["--config", str(CONFIGS / "hardware" / "cpu.yaml")]
RATE = 5  # requests a second


def run(words: list[str]) -> "subprocess.Popen[str]":
    """Starts a command of lightning-transfer in a session of its own; its output goes to output.txt."""
    command = [sys.executable, "-m", "lightning_transfer", *words]
    with Path("output.txt").open("w") as output:
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        return subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, text=True, start_new_session=True
        )


class Work:
    """What a soak has to do.

    Attributes:
        over: Set when the time is over, before the command is stopped.
    """

    def __init__(self) -> None:
        self.over = threading.Event()

    def start(self) -> "subprocess.Popen[str]":
        """Starts the command."""
        raise NotImplementedError

    def found(self, output: str) -> tuple[dict[str, Any], list[str]]:
        """Gives what was done, and what was not as it has to be, from the output of the command and its folder."""
        raise NotImplementedError


class Fit(Work):
    """A training without an end, with validation, checkpoints and all dashboards in each epoch."""

    def start(self) -> "subprocess.Popen[str]":
        """Starts it."""
        endless = ["--trainer.max_epochs", "1000000000", "--model.lr_schedule", "constant"]
        config = ["--config", str(CONFIGS / "quickstart.yaml"), *CPU, "--model.warmup_fraction", "0"]
        return run(["fit", *config, *endless, "--version", "run"])

    def found(self, output: str) -> tuple[dict[str, Any], list[str]]:
        """Says how far it came."""
        from lightning_transfer.transfer.damage import damage_of

        damaged = []
        for name in ("last", "best"):
            try:
                broken = damage_of(Path("logs", "quickstart", "run", "checkpoints", f"{name}.ckpt"))
            except OSError as error:
                broken = str(error)
            damaged += [f"{name}.ckpt is not whole: {broken}"] if broken else []
        said = [line for line in output.splitlines() if line.startswith("SIGTERM: stopped after step ")]
        damaged += [] if said else ["it has not said where it stopped"]
        steps = int(said[0].split()[4].rstrip(",")) if said else 0
        return {"steps": steps}, damaged


class Study(Work):
    """Run after run of the demo's study, with all dashboards, in two workers."""

    def start(self) -> "subprocess.Popen[str]":
        """Starts it."""
        configs = json.dumps([str(CONFIGS / "quickstart_transfer.yaml"), CPU[1]])
        config = ["--config", str(CONFIGS / "studies" / "demo.yaml"), "--configs", configs]
        return run(["study", *config, "--seeds", json.dumps([*range(1000)]), "--workers", "2"])

    def found(self, output: str) -> tuple[dict[str, Any], list[str]]:
        """Says how far it came."""
        failed = [str(file.parent) for file in Path("logs").glob("*/*/failed.json")]
        runs = len([*Path("logs").glob("*/*/results.json")])
        return {"runs": runs}, [f"{name} has failed" for name in failed]


class Serve(Work):
    """A server of a small run, asked five times a second; every tenth request is bad."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def start(self) -> "subprocess.Popen[str]":
        """Starts it."""
        config = ["--config", str(CONFIGS / "quickstart.yaml"), *CPU, "--dashboards", "null", "--version", "run"]
        if status := run(["fit", *config, "--trainer.max_epochs", "2"]).wait():
            raise SystemExit(f"the training before it has ended with status {status}: see output.txt")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = run(["serve", "logs/quickstart/run", "--port", str(port)])
        while self._ask(port, "GET", "/health", "")[0] != 200:
            if server.poll() is not None:
                raise SystemExit("the server has not started: see output.txt")
            time.sleep(0.2)
        threading.Thread(target=self._ask_until_the_end, args=(port,), daemon=True).start()
        return server

    def found(self, output: str) -> tuple[dict[str, Any], list[str]]:
        """Says how far it came."""
        wrong = [f"{len(self.wrong)} wrong answers, the first: {self.wrong[0]}"] if self.wrong else []
        return {"answers": dict(self.statuses)}, wrong

    def _ask_until_the_end(self, port: int) -> None:
        good, bad = _requests()
        first: dict[str, str] = {}
        beginning = time.monotonic()
        for number in itertools.count():
            if self.over.wait(max(0.0, beginning + number / RATE - time.monotonic())):
                break
            is_bad = number % 10 == 9
            body = bad[number // 10 % len(bad)] if is_bad else good[number % len(good)]
            status, answer = self._ask(port, "POST", "/predict", body)
            if self.over.is_set():
                break
            self.statuses[status] += 1
            is_right = 400 <= status < 500 if is_bad else status == 200 and first.setdefault(body, answer) == answer
            if not is_right:
                self.wrong.append(f"{status} {answer[:200]} to {body[:80]}")

    def _ask(self, port: int, method: str, path: str, body: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


def _requests() -> tuple[list[str], list[str]]:
    """Makes good requests, each with an image, and bad ones: broken, of a wrong type, too large."""

    def encoded(image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    draw = random.Random(0)
    pictures = [encoded(Image.frombytes("RGB", (48, 48), draw.randbytes(48 * 48 * 3))) for _ in range(32)]
    wrong = [3, [], [3], ["/etc/passwd"], [pictures[0][:800]], ["aGVsbG8="], ["A" * 11_000_000]]
    large = [encoded(Image.new("1", (9000, 9000)))]
    bad = ["{", "[" * 100_000, "null", *(json.dumps({"images": one}) for one in [*wrong, large]), '{"texts": ["a"]}']
    return [json.dumps({"images": [picture]}) for picture in pictures], bad


WORKS: dict[str, type[Work]] = {"fit": Fit, "study": Study, "serve": Serve}
