"""Implements ``lightning-transfer serve``: it answers requests over HTTP with a run's predictions."""

import functools
import gc
import hashlib
import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

from lightning_transfer.cli.allocation import return_freed_memory
from lightning_transfer.cli.loading import files_of, load
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.cluster.signals import SIGHUP
from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.texts import TextDataModule
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.run.predictor import Member
from lightning_transfer.run.verbosity import print_result

Host = Literal["127.0.0.1", "0.0.0.0", "::"]  # those that LitServe takes


def serve_run(
    run: Path,
    host: Host = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 16,
    batch_seconds: float = 0.005,
    max_examples: int = 64,
    max_bytes: int = 10_000_000,
    max_pixels: int = 25_000_000,
    max_characters: int = 100_000,
    device: str | None = None,
) -> None:
    """Answers requests over HTTP with a run's predictions, until Ctrl-C or SIGTERM.

    The weights are those of the best checkpoint. POST /predict takes texts, or images in base64, as JSON; POST
    /predict/files takes image files. GET /health, /metrics, /info and /openapi.json say how the server is and what it
    takes. A bad request is answered with one line as JSON. Nothing that a request names is opened or fetched.

    Args:
        run: Folder of the run, such as logs/EXPERIMENT/VERSION.
        host: Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 or :: for others too.
        port: Port to listen at, from 1024 on.
        batch_size: Requests that are predicted together at most. With 1, no digit of an answer depends on other
            requests.
        batch_seconds: Seconds that a request waits at most for others to be predicted with.
        max_examples: Images or texts of a request at most.
        max_bytes: Bytes of a request at most.
        max_pixels: Pixels of an image at most. More are refused before they are decoded.
        max_characters: Characters of a text at most.
        device: Where to compute, such as cpu, cuda or cuda:1. If not given, as in ``load``.

    Raises:
        UserError: If the run cannot be loaded, the port is taken, or a process has died that cannot be replaced.
    """
    run = Path(run)
    limits = {"max_examples": max_examples, "max_bytes": max_bytes, "max_pixels": max_pixels}
    limits["max_characters"] = max_characters
    _check(run, host, port, batch_seconds, {"batch_size": batch_size, **limits})
    from lightning_transfer.run.server.answering import Answering, Limits
    from lightning_transfer.run.server.endpoints import build_server

    [member] = load(run, device).members
    place = str(member.device)
    most = Limits(*limits.values())
    answering = Answering(functools.partial(load, run, place), most, batch_size, batch_seconds)
    identity = {"run": f"{run.resolve().parent.name}/{run.resolve().name}", "version": _version(run)}
    facts, columns = _facts(member), _text_columns(member)
    server = build_server(answering, identity, facts, columns, most)
    address = f"http://{'[::]' if host == '::' else host}:{port}"
    print_result(
        f"{run}: loads, and answers at {address} when GET /health says ok",
        {"event": "serve", "address": address, **identity, **facts},
    )
    _stop_as_by_ctrl_c()
    return_freed_memory()
    gc.freeze()  # a collection in a forked process would copy what it shares with this one
    server.run(host=host, port=port, num_api_servers=1, log_level="error", generate_client_file=False)
    gc.unfreeze()
    if server.failure is not None:
        raise UserError(server.failure)


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("serve", serve_run)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    serve_run(**parser().parse_args(arguments).as_dict())


def _check(run: Path, host: str, port: int, batch_seconds: float, numbers: dict[str, int]) -> None:
    """Checks, before any work, the libraries, the run and the options."""
    for library in ("litserve", "python_multipart", "prometheus_client"):
        require_library(library, "serve", "serve")
    files_of(run)
    if host not in get_args(Host):
        raise UserError(f"--host is {host}: expected {', '.join(get_args(Host))}")
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"--{name} is {number}: expected 1 or more")
    if not 0 < batch_seconds < 10:
        raise UserError(f"--batch_seconds is {batch_seconds}: expected more than 0 and less than 10")
    if not 1024 <= port <= 65535:
        raise UserError(f"--port is {port}: expected 1024 to 65535")
    with socket.socket(socket.AF_INET6 if host == "::" else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"--port is {port}, which cannot be had at {host}: {error.strerror}") from error


def _version(run: Path) -> str:
    """Identifies the weights: the start of the checkpoint's SHA-256."""
    with files_of(run)[1].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _text_columns(member: Member) -> int | None:
    """Says how many texts an example has, None for images."""
    if isinstance(member.data, TextDataModule):
        return len(member.data.text_columns)
    if isinstance(member.data, ImageDataModule):
        return None
    raise UserError(f"{member.name} is on {type(member.data).__name__}: expected images or texts")


def _facts(member: Member) -> dict[str, Any]:
    """Says what the model is."""
    data = member.data
    return {
        "network": type(getattr(member.module, "network", member.module)).__name__,
        "problem_type": data.problem_type,
        "classes": [str(name) for name in data.class_names],
        "device": str(member.device),
    }


def _stop_as_by_ctrl_c() -> None:
    """Has SIGTERM and the end of the terminal end all processes of the server, as Ctrl-C does."""
    process = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:  # those that it forks have it too
            raise KeyboardInterrupt

    for signum in (signal.SIGTERM, SIGHUP):
        if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:  # nohup ignores the second
            signal.signal(signum, stop)
