"""The server: it answers as predict does to the last bit, refuses what is bad in one line, and bears both at once."""

import asyncio
import base64
import hashlib
import http.client
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import REPOSITORY
from lightning.pytorch.plugins import Precision
from PIL import Image
from test_cli import error_line
from test_load import image_run, pictures  # noqa: F401  # a fixture

from lightning_transfer import Classifier, LSTMClassifier, TextDataModule, load
from lightning_transfer.data.tokenizer import train_tokenizer
from lightning_transfer.run.predictor import Member, Predictor

needs_extra = pytest.mark.skipif(
    not all(find_spec(library) for library in ("litserve", "python_multipart", "prometheus_client")),
    reason="the extra serve is not installed",
)
JSON = {"Content-Type": "application/json"}
WORDS = ["a good film", "a bad and dull film", "no film", ""]


class Server(NamedTuple):
    """A server in processes of its own."""

    process: "subprocess.Popen[str]"
    port: int
    errors: Path  # what it has said on standard error

    def ask(self, method: str, path: str, body: bytes | str = b"", **headers: str) -> tuple[int, Any]:
        """Sends a request: the status, and the answer as JSON or text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=150)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(text) if is_json else text

    def predict(self, body: object) -> tuple[int, Any]:
        """Posts JSON; a string or bytes as they are."""
        return self.ask("POST", "/predict", body if isinstance(body, str | bytes) else json.dumps(body), **JSON)

    def predict_files(self, *contents: bytes, field: str = "images") -> tuple[int, Any]:
        """Posts files as a form does."""
        head = f'--xxx\r\nContent-Disposition: form-data; name="{field}"; filename="a.png"\r\n\r\n'.encode()
        body = b"".join(head + content + b"\r\n" for content in contents) + b"--xxx--\r\n"
        return self.ask("POST", "/predict/files", body, Content_Type="multipart/form-data; boundary=xxx")

    def is_healthy_within(self, seconds: float) -> bool:
        """Waits until it says ok; False where it ends or takes longer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError):
                if self.ask("GET", "/health") == (200, "ok"):
                    return True
            time.sleep(0.1)
        return False

    def processes(self) -> list[int]:
        """The process that was started, and its children."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        return [self.process.pid, *(child for child, parent in pairs if parent == self.process.pid)]

    def process_that(self, does: str) -> int:
        """The process that predicts, speaks HTTP or has the queues."""
        commands = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in self.processes()[1:]}
        if does == "predicts":
            return next(one for one, command in commands.items() if b"spawn_main" in command)
        forked = sorted((one for one, command in commands.items() if b"\0serve\0" in command), key=_start)
        return dict(zip(("has the queues", "speaks HTTP"), forked, strict=True))[does]


def _start(process: int) -> int:
    """When a process was started, in ticks of the clock."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])


@contextmanager
def serving(run: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Serves a run from a folder, until the end of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lightning_transfer", "serve", str(run), "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    errors, pipe = folder.with_suffix(".err"), subprocess.PIPE
    with (
        errors.open("w") as file,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=file, text=True) as process,
    ):
        started = Server(process, port, errors)
        try:
            assert started.is_healthy_within(120), errors.read_text()
            yield started
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """A server of a run on images, with small limits, in an empty working directory."""
    limits = {"max_examples": "4", "max_bytes": "300_000", "max_pixels": "10_000"}
    options = [word for name, value in limits.items() for word in (f"--{name}", value.replace("_", ""))]
    folder = tmp_path_factory.mktemp("elsewhere")
    with serving(image_run, folder, *options) as started:
        assert not [*folder.iterdir()]
        yield started


def contents(count: int = 4) -> list[bytes]:
    return [Path(file).read_bytes() for file in pictures(count)]


def in_base64(*images: bytes) -> dict[str, list[str]]:
    return {"images": [base64.b64encode(image).decode() for image in images]}


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    return buffer.getvalue()


@needs_extra
def test_answers_are_those_of_predict_to_the_last_bit(server: Server, image_run: Path) -> None:  # noqa: F811
    images = contents()
    status, answer = server.predict_files(*images)
    found = load(image_run).predict(pictures(4))
    assert status == 200
    assert [[*row["probabilities"].values()] for row in answer["predictions"]] == found.probabilities.tolist()  # type: ignore[union-attr]
    assert [[*row["probabilities"]] for row in answer["predictions"]] == [found.class_names] * 4
    assert [row["class"] for row in answer["predictions"]] == found.labels
    assert answer["run"] == f"kept/{image_run.name}"
    weights = (image_run / "checkpoints" / "best.ckpt").read_bytes()
    assert answer["version"] == hashlib.sha256(weights).hexdigest()[:16]
    assert server.predict(in_base64(*images)) == (200, answer)


BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": ("{", 422, "the body is no JSON: Expecting property name"),
    "no text": (b"\xff\xfe", 422, "the body is no JSON"),
    "deep": ("[" * 100_000, 400, "the body cannot be read: expected JSON"),
    "large number": ("1" * 6000, 400, "the body cannot be read"),
    "nothing": ({}, 422, "images is missing: expected a list of that name"),
    "null": ("null", 422, "images is missing"),
    "no list": ({"images": "cat.png"}, 422, "images is 'cat.png': expected a valid list"),
    "empty list": ({"images": []}, 422, r"images is \[\]: expected at least 1 item$"),
    "no string": ({"images": [3]}, 422, r"images\[0\] is 3: expected a valid string"),
    "path": ({"images": ["/etc/passwd"]}, 422, r"images\[0\] is '/etc/passwd': expected base64"),
    "address": ({"images": ["http://localhost/a.png"]}, 422, r"images\[0\] is .*: expected base64, only base64 data"),
    "half a character": ({"images": ["\ud800"]}, 422, r"images\[0\] is '\\ud800': expected base64"),
    "no image": (in_base64(b"hello"), 422, "example 0 cannot be decoded as an image: it has no known format"),
    "no bytes": (in_base64(png((9, 9)), b""), 422, "example 1 cannot be decoded as an image: it is empty"),
    "pickle": (in_base64(b"\x80\x04cos\nsystem\n(S'touch sprung'\ntR."), 422, "example 0 .*: it has no known format"),
    "too many": (in_base64(*[b"x"] * 5), 413, "images is .*: expected at most 4 items$"),
    "too many bytes": ("x" * 400_000, 413, "the body is too large: expected at most 300000 bytes"),
    "too many pixels": (in_base64(png((101, 100))), 413, "example 0 is too large: expected at most 10000 pixels"),
    "bomb": (in_base64(png((9000, 9000))), 413, "example 0 is too large: expected at most 10000 pixels"),
}


@needs_extra
@pytest.mark.parametrize("kind", BAD)
def test_bad_request_is_answered_with_one_line(server: Server, kind: str) -> None:
    body, status, line = BAD[kind]
    assert server.predict(body)[0] == status
    [(name, said)] = server.predict(body)[1].items()
    assert name == "error"
    assert re.match(line, said)
    assert "\n" not in said
    assert len(said) < 200


@needs_extra
def test_bad_file_method_and_path_are_answered_with_one_line(server: Server) -> None:
    truncated = contents(1)[0][:300]
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    answers = [
        (server.predict_files(truncated), 422, "example 0 cannot be decoded as an image: image file is truncated"),
        (server.predict_files(png((101, 100))), 413, "example 0 is too large"),
        (server.predict_files(b"x", field="pictures"), 422, "images is missing"),
        (server.ask("POST", "/predict/files", "images=a", **form), 422, r"images\[0\] is 'a': expected a file"),
        (server.ask("POST", "/predict/files", "x", Content_Type="multipart/form-data"), 400, "Missing boundary"),
        (
            server.ask("POST", "/predict", "hello", Content_Type="text/plain"),
            422,
            "Content-Type is 'text/plain': expected",
        ),
        (
            server.ask("POST", "/predict", json.dumps(in_base64(truncated)), **form),
            422,
            ".*: expected application/json",
        ),
        (server.ask("POST", "/predict/files", "{}", **JSON), 422, ".*json': expected multipart/form-data"),
        (server.ask("GET", "/predict"), 405, "/predict is not for GET: expected a method of GET /openapi.json"),
        (server.ask("GET", "/etc/passwd"), 404, "/etc/passwd is not there: expected a path of GET /openapi.json"),
    ]
    for (found, answer), status, line in answers:
        assert (found, bool(re.match(line, answer["error"]))) == (status, True), answer


@needs_extra
def test_good_requests_are_answered_right_beside_bad_ones(server: Server, image_run: Path) -> None:  # noqa: F811
    images, bad = contents(7), [body for body, *_ in BAD.values()]
    model = load(image_run)
    expected = [model.predict([file]).probabilities for file in pictures(7)]
    memory = [_resident(process) for process in server.processes()]

    def send(number: int) -> tuple[int, int, Any]:
        place = number % 7
        is_bad = number % 3 == 0
        return number, place, server.predict(bad[number % len(bad)] if is_bad else in_base64(images[place]))

    with ThreadPoolExecutor(8) as pool:
        for number, place, (status, answer) in pool.map(send, range(240)):
            if number % 3 == 0:
                assert 400 <= status < 500
                assert set(answer) == {"error"}
            else:
                found = torch.tensor([[*answer["predictions"][0]["probabilities"].values()]])
                torch.testing.assert_close(found, expected[place], atol=1e-6, rtol=0)
    assert all(
        after < before + 30_000 for before, after in zip(memory, map(_resident, server.processes()), strict=True)
    )


def _resident(process: int) -> int:
    """Memory of a process in KiB."""
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


@needs_extra
def test_server_says_how_it_is_and_what_it_takes(server: Server) -> None:
    server.predict_files(*contents(2))
    server.predict("{")
    _, metrics = server.ask("GET", "/metrics")
    counts = dict(re.findall(r'^lightning_transfer_requests_total\{status="(\d+)"\} (\S+)$', metrics, re.MULTILINE))
    assert float(counts["200"]) >= 1
    assert float(counts["422"]) >= 1
    assert re.search(r"^lightning_transfer_examples_total [1-9]", metrics, re.MULTILINE)
    assert re.search(r"^lightning_transfer_waiting_requests 0.0$", metrics, re.MULTILINE)
    _, schema = server.ask("GET", "/openapi.json")
    assert {"/predict", "/predict/files", "/health", "/metrics", "/info"} <= set(schema["paths"])
    [request] = [body for name, body in schema["components"]["schemas"].items() if name == "Body_predict_predict_post"]
    assert request["properties"]["images"]["maxItems"] == 4
    assert schema["components"]["schemas"]["Class"]["required"] == ["class", "probabilities"]
    _, facts = server.ask("GET", "/info")
    assert facts["model"]["classes"] == ["class0", "class1", "class2"]
    assert facts["model"]["limits"] == {"examples": 4, "bytes": 300_000, "pixels": 10_000, "characters": 100_000}


@needs_extra
def test_process_that_predicts_is_started_again_when_it_is_killed(server: Server, image_run: Path) -> None:  # noqa: F811
    predicts = server.process_that("predicts")
    os.kill(predicts, signal.SIGKILL)
    status, answer = server.predict_files(*contents(1))
    assert status == 200  # it has waited for the next process
    found = [*answer["predictions"][0]["probabilities"].values()]
    assert found == load(image_run).predict(pictures(1)).probabilities[0].tolist()  # type: ignore[index]
    assert server.is_healthy_within(60)
    assert predicts != server.process_that("predicts")
    [line] = server.errors.read_text().splitlines()
    assert line == "the process that predicts was killed by SIGKILL (memory may have run out); it is started again"


@needs_extra
def test_request_that_a_dead_process_had_taken_is_answered_and_others_wait() -> None:
    from litserve.utils import ResponseBufferItem, WorkerSetupStatus

    async def death() -> list[bool]:
        server = unstarted()
        taken, waiting = (ResponseBufferItem(asyncio.Event(), worker_id=worker) for worker in (0, None))
        server.response_buffer = {"taken": taken, "waiting": waiting}
        server.workers_setup_status = {"predict_0": WorkerSetupStatus.READY}
        watch = asyncio.create_task(server._answer_what_is_lost())
        await asyncio.sleep(0.5)
        is_answered = [taken.event.is_set()]
        server.workers_setup_status = {"predict_0": WorkerSetupStatus.STARTING}
        await asyncio.wait_for(taken.event.wait(), 5)
        watch.cancel()
        error, state = taken.response
        assert (error.status_code, state) == (503, "ERROR")
        assert error.detail == "the process that predicts has died, and this request with it: send it again"
        return [*is_answered, waiting.event.is_set()]

    assert asyncio.run(death()) == [False, False]


@pytest.mark.slow
@needs_extra
def test_server_ends_with_a_process_that_cannot_be_replaced(image_run: Path, tmp_path: Path) -> None:  # noqa: F811
    with serving(image_run, tmp_path) as started:
        processes = started.processes()
        os.kill(started.process_that("speaks HTTP"), signal.SIGKILL)
        assert started.process.wait(60) == 2
        [line] = started.errors.read_text().splitlines()
        assert line.startswith("lightning-transfer: error: the process that speaks HTTP was killed by SIGKILL (memory")
        assert still_there(processes) == []


@pytest.mark.parametrize("does", ["has the queues", "speaks HTTP"])
@needs_extra
def test_line_says_what_the_dead_process_did(does: str) -> None:
    from lightning_transfer.run.server.processes import Server

    server = object.__new__(Server)
    processes = {
        name: multiprocessing.Process(target=time.sleep, args=(60,)) for name in ("has the queues", "speaks HTTP")
    }
    for process in processes.values():
        process.start()
    processes[does].kill()
    vars(server).update(_queues=processes["has the queues"], _shutdown_event=threading.Event(), failure=None)
    server._end_with_one_of([*processes.values()])
    for process in processes.values():
        process.kill()
        process.join()
    assert server.failure == (
        f"the process that {does} was killed by SIGKILL (memory may have run out); start the server again"
    )
    assert server._shutdown_event.is_set()


@pytest.mark.slow
@needs_extra
def test_no_process_outlives_the_first_one(image_run: Path, tmp_path: Path) -> None:  # noqa: F811
    with serving(image_run, tmp_path) as started:
        processes = started.processes()
        started.process.kill()
        started.process.wait(60)
        assert still_there(processes) == []
        assert started.errors.read_text() == ""


def still_there(processes: list[int]) -> list[int]:
    """Those that have not ended after ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end and any(Path(f"/proc/{process}").exists() for process in processes):
        time.sleep(0.1)  # Python's own helper ends after the others
    return [process for process in processes if Path(f"/proc/{process}").exists()]


@needs_extra
def test_sigterm_ends_every_process(server: Server) -> None:  # the last one that uses the server
    processes = server.processes()
    assert len(processes) >= 4
    server.process.send_signal(signal.SIGTERM)
    said, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert re.fullmatch(r"\S+: loads, and answers at http://127\.0\.0\.1:\d+ when GET /health says ok\n", said)
    assert still_there(processes) == []


@pytest.mark.parametrize("columns", [1, 2])
@needs_extra
def test_texts_are_answered_as_by_predict_and_bad_ones_are_refused(columns: int) -> None:
    from lightning_transfer.run.server.answering import Answering, Limits, Reply
    from lightning_transfer.run.server.endpoints import build_server

    data = TextDataModule("nowhere", text_column=["title", "text"][:columns])
    tokenizer = train_tokenizer(WORDS, "words", 100).to_str()
    data.load_state_dict({"place": {}, "class_names": ["bad", "good"], "run_seed": 0, "tokenizer": tokenizer})
    network = LSTMClassifier(100, num_classes=2, hidden_size=8)
    model = Predictor([Member("run", Classifier(network, 2).eval(), data, Precision(), torch.device("cpu"))])
    limits = Limits(examples=3, bytes=10_000, pixels=1, characters=20)
    answering = Answering(lambda: model, limits, batch_size=2, batch_seconds=0.001)
    before = signal.getsignal(signal.SIGINT), Image.MAX_IMAGE_PIXELS
    try:
        answering.setup("cpu")
    finally:
        signal.signal(signal.SIGINT, before[0])
        Image.MAX_IMAGE_PIXELS = before[1]
    texts: list[Any] = WORDS if columns == 1 else [[text, text] for text in WORDS]
    expected = model.predict(texts).probabilities
    refused = Reply(422, "no")
    first, second, third = answering.predict([answering.decode_request(texts[:1]), refused, texts[1:]])
    assert second is refused
    assert first.batch == third.batch == 4
    found = [[*row["probabilities"].values()] for row in [*first.content, *third.content]]  # type: ignore[union-attr]
    assert expected is not None
    assert found == expected.tolist()

    facts = {"device": "cpu", "problem_type": "classification"}
    app = build_server(answering, {"run": "a", "version": "b"}, facts, columns, limits).app
    inner = r"texts\[0\]" + r"\[0\]" * (columns - 1)
    for text, status, line in [
        ("a" * 21, 413, f"{inner} is 'a.*': expected at most 20 characters"),
        (3, 422, f"{inner} is 3: expected a valid string"),
        ("\ud800", 422, rf"{inner} is '\\ud800': expected a valid string"),
    ]:
        answer = asyncio.run(_post(app, {"texts": [text if columns == 1 else [text, "a"]]}))
        assert (answer[0], bool(re.match(line, answer[1]["error"]))) == (status, True), answer
    wrong = asyncio.run(_post(app, {"texts": [["a", "b", "c"]]}))
    assert wrong[0] in (413, 422)


@needs_extra
def test_key_of_the_environment_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litserve.server.LIT_SERVER_API_KEY", "secret")
    app = unstarted().app
    assert asyncio.run(_post(app, {"texts": 3}))[0] in (401, 403)
    assert asyncio.run(_post(app, {"texts": 3}, (b"x-api-key", b"guess")))[0] == 401
    assert asyncio.run(_post(app, {"texts": 3}, (b"x-api-key", b"secret")))[0] == 422


def unstarted() -> Any:
    """A server of texts that has not loaded a run."""
    from lightning_transfer.run.server.answering import Answering, Limits
    from lightning_transfer.run.server.endpoints import build_server

    limits = Limits(examples=1, bytes=1000, pixels=1, characters=1)
    facts = {"device": "cpu", "problem_type": "classification"}
    answering = Answering(lambda: load("nowhere"), limits, batch_size=2, batch_seconds=0.001)
    return build_server(answering, {"run": "a", "version": "b"}, facts, 1, limits)


async def _post(app: Any, body: object, *more: tuple[bytes, bytes]) -> tuple[int, Any]:
    """Sends a request to an application without a server."""
    sent: list[dict[str, Any]] = []
    headers = [(b"content-type", b"application/json"), *more]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


@needs_extra
def test_request_is_refused_at_once_where_many_wait() -> None:
    from lightning_transfer.run.server.traffic import Traffic, Watch

    async def crowd() -> list[tuple[int, Any]]:
        go = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        watch = Watch(slow, Traffic())
        waiting = [asyncio.create_task(_post(watch, {})) for _ in range(64)]
        await asyncio.sleep(0)
        refused = await _post(watch, {})
        go.set()
        return [refused, *[await task for task in waiting], await _post(watch, {})]

    first, *others = asyncio.run(crowd())
    assert first == (503, {"error": "64 requests are waiting: expected fewer; try again in a second"})
    assert others == [(200, {})] * 65


@needs_extra
def test_body_that_comes_slowly_is_given_up_and_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi import HTTPException

    from lightning_transfer.run.server import traffic

    monkeypatch.setattr(traffic, "_BODY_SECONDS", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await receive()
        while body["more_body"]:
            body = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body["body"]})

    async def half_sent(watch: Any) -> int:
        begun = iter([{"type": "http.request", "body": b"{", "more_body": True}])

        async def receive() -> Any:
            return next(begun, None) or await asyncio.Event().wait()

        with pytest.raises(HTTPException, match=r"the body is not whole after 0\.2 seconds") as raised:
            await watch({"type": "http", "path": "/predict"}, receive, None)
        return raised.value.status_code

    async def crowd() -> list[Any]:
        watch = traffic.Watch(app, traffic.Traffic())
        slow = [asyncio.create_task(half_sent(watch)) for _ in range(100)]
        await asyncio.sleep(0)
        return [await _post(watch, {"texts": ["good"]}), *[await task for task in slow]]

    good, *given_up = asyncio.run(crowd())
    assert good == (200, {"texts": ["good"]})
    assert given_up == [408] * 100


def test_what_cannot_be_served_is_refused_before_any_work(
    image_run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        line = error_line(capsys, "serve", str(image_run))
        assert line.startswith("serve needs litserve, which is not installed: ")
        assert line.endswith("'lightning-transfer[serve]'")
    monkeypatch.setattr("lightning_transfer.cli.serving.require_library", lambda *_: None)
    assert error_line(capsys, "serve", "nowhere").startswith("nowhere has no config.yaml: expected the folder of a run")
    for option, value, words in [
        ("port", "80", "expected 1024 to 65535"),
        ("batch_size", "0", "expected 1 or more"),
        ("batch_seconds", "0.0", "expected more than 0 and less than 10"),
    ]:
        line = error_line(capsys, "serve", str(image_run), f"--{option}", value)
        assert line == f"--{option} is {value}: {words}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = error_line(capsys, "serve", str(image_run), "--port", str(port))
    assert line == f"--port is {port}, which cannot be had at 127.0.0.1: Address already in use"


def test_memory_of_bodies_is_returned_once_it_is_free() -> None:
    program = """
from pathlib import Path
from lightning_transfer.cli.allocation import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()  # as every command does
return_freed_memory()
before = resident()
bodies = [b"a" * 11_000_000 for _ in range(8)]
assert resident() > before + 80_000_000
del bodies
print(resident() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 8_000_000
