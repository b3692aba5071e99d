"""Predicts in a process of its own, where the model is: it decodes what requests hold, and answers them in batches."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import litserve
from litserve.loops import BatchedLoop
from litserve.specs.base import LitSpec
from PIL import Image

from lightning_transfer.cluster.orphans import end_after_parent
from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.errors import UserError
from lightning_transfer.run.predictions import in_words
from lightning_transfer.run.predictor import Predictor


class Limits(NamedTuple):
    """What a request may hold at most.

    Attributes:
        examples: Images or texts.
        bytes: Bytes of the whole body.
        pixels: Pixels of an image.
        characters: Characters of a text.
    """

    examples: int
    bytes: int
    pixels: int
    characters: int


class Reply(NamedTuple):
    """Answers a request.

    Attributes:
        status: The status of HTTP.
        content: The predictions of the examples, or one line that says what is wrong.
        batch: Number of examples that were predicted together, 0 where none was.
    """

    status: int
    content: list[dict[str, Any]] | str
    batch: int = 0


class OwnEndpoints(LitSpec):  # type: ignore[misc]
    """Keeps LitServe from adding its own endpoint, which takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.api_path = "/predict"


class Loop(BatchedLoop):  # type: ignore[misc]
    """Takes requests from the queue until the server ends."""

    def __call__(self, *arguments: Any) -> None:
        """Predicts batch after batch. The first process ends this one, also where that of the queues has died."""
        with contextlib.suppress(EOFError, ConnectionError):
            super().__call__(*arguments)
        end_after_parent()


class Answering(litserve.LitAPI):  # type: ignore[misc]
    """Answers requests, each of which is a list of examples: strings, or the contents of image files.

    A bad request gets its own reply, and the others of its batch get their predictions.

    Args:
        load: Loads the run, in the process that predicts.
        limits: What a request may hold.
        batch_size: Requests in a batch.
        batch_seconds: How long a batch waits for more requests.
    """

    def __init__(self, load: Callable[[], Predictor], limits: Limits, batch_size: int, batch_seconds: float) -> None:
        super().__init__(batch_size, batch_seconds, spec=OwnEndpoints(), loop=Loop())
        self._load, self._limits = load, limits

    def setup(self, device: str) -> None:
        """Loads the run."""
        threading.Thread(target=end_after_parent, daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the first one ends this
        # Pillow refuses, before it decodes, what has more than twice as many pixels, also within a container.
        Image.MAX_IMAGE_PIXELS = self._limits.pixels // 2
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        self._model = self._load()
        self._data = self._model.members[0].data

    def decode_request(self, request: list[Any]) -> Sequence[object] | Reply:
        """Decodes images; a text stays as it is."""
        if not isinstance(self._data, ImageDataModule):
            return request
        try:
            images = self._data.split_of(request).inputs
        except UserError as error:
            if isinstance(error.__cause__, Image.DecompressionBombError):
                place = str(error).partition(" cannot be decoded")[0]
                return Reply(413, f"{place} is too large: expected at most {self._limits.pixels} pixels")
            return Reply(422, str(error))
        return [image.numpy() for image in images.permute(0, 2, 3, 1)]

    def predict(self, requests: Sequence[Sequence[object] | Reply]) -> list[Reply]:
        """Predicts the examples of all requests together."""
        examples = [example for request in requests if not isinstance(request, Reply) for example in request]
        found = self._model.predict(examples)
        numbers = found.values if found.probabilities is None else found.probabilities
        assert numbers is not None
        rows = (dict(zip(found.class_names, row, strict=True)) for row in numbers.tolist())
        words = (in_words(row, self._model.problem_type) for row in rows)
        return [
            request if isinstance(request, Reply) else Reply(200, [next(words) for _ in request], len(examples))
            for request in requests
        ]

    def encode_response(self, output: Reply) -> Reply:
        """Leaves a reply as it is."""
        return output
