"""Takes requests, checks them before anything is decoded, and says in one line what is wrong with one."""

import asyncio
import base64
import binascii
import logging
import re
import reprlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve.server import RegularRequestHandler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.run.server.answering import Answering, Limits, Reply
from lightning_transfer.run.server.processes import Server
from lightning_transfer.run.server.traffic import Traffic, Watch

Answer = Callable[[list[Any]], Awaitable[Response]]

_SECONDS = 60.0  # until a request is given up: the process that predicts may have to start anew meanwhile
_TOO_LARGE = ("string_too_long", "too_long")  # pydantic's kinds of errors


class Class(BaseModel):
    """The class of an example, and the probability of each."""

    name: str = Field(alias="class")
    probabilities: dict[str, float]


class Classes(BaseModel):
    """The classes of an example, and the probability of each: those from a half on are given."""

    classes: list[str]
    probabilities: dict[str, float]


class Numbers(BaseModel):
    """The numbers of an example."""

    values: dict[str, float]


_PREDICTIONS: dict[ProblemType, Any] = {"classification": Class, "multilabel": Classes, "regression": Numbers}


def build_server(
    answering: Answering, identity: dict[str, str], facts: dict[str, Any], columns: int | None, limits: Limits
) -> Server:
    """Builds the server.

    Args:
        answering: Predicts.
        identity: What every answer says of the run: ``run`` and ``version``.
        facts: What ``GET /info`` says of it besides, with ``device`` and ``problem_type``.
        columns: How many texts an example has; None for images.
        limits: What a request may hold.
    """
    kind, _, index = facts["device"].partition(":")
    traffic = Traffic()
    server = Server(
        answering,
        accelerator=kind if kind in ("cpu", "cuda", "mps") else "cpu",
        devices=[int(index or 0)],
        timeout=_SECONDS,
        model_metadata={**identity, **facts, "limits": limits._asdict()},
        max_payload_size=limits.bytes,
        middlewares=[(Watch, {"traffic": traffic})],
    )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what the answer says
    app: FastAPI = server.app
    app.title = f"lightning-transfer: {identity['run']}"
    _answer_errors(app, limits)
    router = APIRouter(dependencies=[Depends(server.setup_auth())])  # for the key of LIT_SERVER_API_KEY

    @router.get("/metrics")
    async def metrics() -> Response:
        """Says what the server has done, for Prometheus."""
        return Response(generate_latest(traffic.registry), media_type=CONTENT_TYPE_LATEST)

    answer = _answer_by(server, answering, identity, traffic)
    answers = _answers(_PREDICTIONS[facts["problem_type"]])
    if columns is None:
        _take_images(router, answer, answers, limits)
    else:
        _take_texts(router, answer, answers, limits, columns)
    app.include_router(router)
    return server


def _answer_by(server: Server, answering: Answering, identity: dict[str, str], traffic: Traffic) -> Answer:
    """Gives what has the other process predict examples."""
    handler = RegularRequestHandler(answering, server)

    async def answer(examples: list[Any]) -> Response:
        try:
            reply: Reply = await asyncio.wait_for(handler.handle_request(examples, list), 2 * _SECONDS)
        except TimeoutError:
            raise HTTPException(504, "the request was given up: the process that predicts does not answer") from None
        if isinstance(reply.content, str):
            raise HTTPException(reply.status, reply.content)
        traffic.examples.inc(len(reply.content))
        traffic.batches.observe(reply.batch)
        return JSONResponse({**identity, "predictions": reply.content})

    return answer


def _answers(prediction: Any) -> type[BaseModel]:
    """Gives what an answer is made of, for the schema."""

    class Answers(BaseModel):
        """The predictions in the order of the examples."""

        run: str
        version: str
        predictions: list[prediction]

    return Answers


def _take_texts(router: APIRouter, answer: Answer, answers: type[BaseModel], limits: Limits, columns: int) -> None:
    text = Annotated[str, Field(max_length=limits.characters)]
    example: Any = text if columns == 1 else Annotated[list[text], Field(min_length=columns, max_length=columns)]

    @router.post("/predict", response_model=answers)
    async def predict(
        texts: Annotated[list[example], Body(embed=True, min_length=1, max_length=limits.examples)],
    ) -> Response:
        """Predicts texts."""
        return await answer(texts)


def _take_images(router: APIRouter, answer: Answer, answers: type[BaseModel], limits: Limits) -> None:
    @router.post("/predict", response_model=answers)
    async def predict(
        images: Annotated[
            list[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]],
            Body(embed=True, min_length=1, max_length=limits.examples),
        ],
    ) -> Response:
        """Predicts images, each the content of a file in base64."""
        return await answer([_from_base64(image, place) for place, image in enumerate(images)])

    @router.post("/predict/files", response_model=answers)
    async def predict_files(
        images: Annotated[list[UploadFile], File(min_length=1, max_length=limits.examples)],
    ) -> Response:
        """Predicts image files."""
        return await answer([await image.read() for image in images])


def _from_base64(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        reason = str(error)[:1].lower() + str(error)[1:]
        raise HTTPException(422, f"images[{place}] is {_shown(text)}: expected base64, {reason}") from None


def _answer_errors(app: FastAPI, limits: Limits) -> None:
    """Has every error answered as ``{"error": LINE}``."""

    @app.exception_handler(AnyHTTPException)
    async def refuse(request: Request, error: AnyHTTPException) -> Response:
        path = request.url.path
        of_libraries = {
            "Not Found": f"{path} is not there: expected a path of GET /openapi.json",
            "Method Not Allowed": f"{path} is not for {request.method}: expected a method of GET /openapi.json",
            "Payload too large": f"the body is too large: expected at most {limits.bytes} bytes",
            "There was an error parsing the body": "the body cannot be read: expected JSON, or multipart for files",
        }
        line = of_libraries.get(error.detail, error.detail)
        return JSONResponse({"error": line}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_content(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        given = request.headers.get("content-type", "missing").partition(";")[0]
        wanted = "multipart/form-data" if request.url.path.endswith("/files") else "application/json"
        if first["type"] == "missing" and given != wanted and not given.endswith("+json"):
            return JSONResponse({"error": f"Content-Type is {_shown(given)}: expected {wanted}"}, 422)
        return JSONResponse({"error": _line_of(first)}, 413 if first["type"] in _TOO_LARGE else 422)

    @app.exception_handler(Exception)
    async def admit(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server has failed: its log says why"}, 500)


def _line_of(error: dict[str, Any]) -> str:
    """Words an error of pydantic in the form of this package."""
    _, *place = error["loc"]
    if error["type"] == "json_invalid":
        return f"the body is no JSON: {error['ctx']['error']} at character {place[0]}"
    name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in place) or "the body"
    if error["type"] == "missing":
        return f"{name} is missing: expected a list of that name, as GET /openapi.json says"
    wanted = re.sub(r"^\w+ should (be|have) | after validation.*", "", error["msg"])
    return f"{name} is {_shown(error['input'])}: expected {'a file' if error['type'] == 'value_error' else wanted}"


def _shown(value: object) -> str:
    """Writes the start of a value in ASCII, as it may hold what no encoding has."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()
