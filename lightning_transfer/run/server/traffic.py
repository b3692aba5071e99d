"""Counts requests for ``GET /metrics``, and refuses those that come when too many wait, or come too slowly."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_WAITING = 64  # requests, whose bodies are in memory; more would wait for seconds
_BODY_SECONDS = 30.0  # for a whole body
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Traffic:
    """Counts what a server does, in the form of Prometheus.

    Attributes:
        registry: Holds the figures.
        waiting: Requests that have no answer yet.
        requests: Answered requests by status of HTTP.
        seconds: How long an answer took.
        examples: Examples that were predicted.
        batches: Examples that were predicted together, for each request.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "lightning_transfer_"
        self.waiting = Gauge(f"{prefix}waiting_requests", "Requests without an answer yet", registry=self.registry)
        self.requests = Counter(f"{prefix}requests", "Answered requests", ["status"], registry=self.registry)
        self.seconds = Histogram(f"{prefix}request_seconds", "Seconds until the answer", registry=self.registry)
        self.examples = Counter(f"{prefix}examples", "Predicted examples", registry=self.registry)
        self.batches = Histogram(
            f"{prefix}batch_examples", "Examples predicted together", buckets=_BATCHES, registry=self.registry
        )


class Watch:
    """Counts the requests of an application, and answers 503 at once while 64 of them wait.

    A request waits once its body is whole. It has 30 seconds for that, and is answered with 408 after them.

    Args:
        app: The application.
        traffic: Takes the figures.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app, self._traffic, self._count = app, traffic, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, unless too many wait."""
        if scope["type"] != "http" or not scope["path"].startswith("/predict"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        app: Any = self._app
        if self._count >= _MOST_WAITING:
            line = f"{self._count} requests are waiting: expected fewer; try again in a second"
            app = JSONResponse({"error": line}, 503, {"Retry-After": "1"})

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._traffic.requests.labels(message["status"]).inc()
                self._traffic.seconds.observe(time.perf_counter() - started)
            await send(message)

        body = _Body(receive, lambda: self._wait(1))
        try:
            await app(scope, body.receive, noted)
        finally:
            if body.is_whole:
                self._wait(-1)

    def _wait(self, more: int) -> None:
        self._count += more
        self._traffic.waiting.set(self._count)


class _Body:
    """Receives the body of a request, which has to be whole in time, and says once that it is."""

    def __init__(self, receive: Receive, once_whole: Callable[[], None]) -> None:
        self._receive, self._once_whole, self.is_whole = receive, once_whole, False
        self._deadline = asyncio.get_running_loop().time() + _BODY_SECONDS

    async def receive(self) -> Message:
        """Gives the next part of the body. What comes after the last one says only that the client has gone.

        Raises:
            HTTPException: If the body is not whole in time.
        """
        if self.is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            line = f"the body is not whole after {_BODY_SECONDS:g} seconds: expected it sooner"
            raise HTTPException(408, line, {"Connection": "close"}) from None
        if not message.get("more_body", False):
            self.is_whole = True
            self._once_whole()
        return message
