"""Features that runs share by way of the cache: a run takes those that an earlier one has computed."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data import cache
from lightning_transfer.modules.network_cut import NetworkCut

_LAYOUT = 1


@dataclass
class Sharing:
    """Counts what a run has shared.

    Attributes:
        computed: Number of examples whose features it has computed.
        taken: Number of those whose features it has taken from the cache.
        computed_seconds: Seconds that it has computed.
        saved_seconds: Seconds that the runs took which computed what it has taken.
    """

    computed: int = 0
    taken: int = 0
    computed_seconds: float = 0.0
    saved_seconds: float = 0.0


class _Features(NamedTuple):
    """The features of an example, on the CPU."""

    digest: bytes  # of its inputs
    steps: Tensor  # [time, ...]
    seconds: float  # in which they were computed


class _Stored(NamedTuple):
    """The place of the features of an example in the cache."""

    entry: int
    example: int
    begin: int
    end: int


class SharedFeatures:
    """Computes the features of examples in evaluation mode, or takes those that another run has left in the cache.

    Each example is computed alone. So its features are the same to the last bit in whatever batch it is, and whichever
    run is the first to need them. An example is known by its inputs: nothing has to be known of data, rows or
    preparation. The lower part of the network is known by its modules, weights and statistics, and by what rounding
    depends on. Where anything else makes a difference, one example of each entry tells: it is computed again, and an
    entry that differs in a bit is not used.

    Args:
        cut: Where the network is cut; it has been checked.
        below: The weights and statistics below by name.
        device: The device that computes.
        most_bytes: The most bytes that the run adds to the cache.
        counts: Counts what is shared.
    """

    def __init__(
        self, cut: NetworkCut, below: Mapping[str, Tensor], device: torch.device, most_bytes: float, counts: Sharing
    ) -> None:
        self._cut, self._counts, self._bytes_left = cut, counts, most_bytes
        self._kind = f"features/{_fingerprint(cut, below, device)}"
        self._entries = [*cache.entries(self._kind)]
        self._is_same: dict[int, bool] = {}  # by entry, once it is known
        self._stored: dict[bytes, list[_Stored]] = defaultdict(list)
        for digest, place in self._places():
            self._stored[digest].append(place)
        self._new: list[_Features] = []

    def features(self, inputs: tuple[Tensor, ...], lengths: Tensor | None) -> Tensor:
        """Gives the features of examples.

        Args:
            inputs: The inputs of the network.
            lengths: int64 [batch] for texts, the number of tokens of each; None for other inputs.

        Returns:
            float [batch, time, ...] as :meth:`NetworkCut.features` does, 0 beyond the length of an example.
        """
        found = [self._of(example) for example in _examples(inputs, lengths)]
        most = inputs[0].shape[1] if self._cut.has_time else 1
        features = found[0].new_zeros(len(found), most, *found[0].shape[1:])
        for place, steps in enumerate(found):
            features[place, : len(steps)] = steps
        return features.to(inputs[0].device)

    def write(self) -> None:
        """Leaves what was computed since the last time to other runs.

        Raises:
            UserError: If the cache cannot be written.
        """
        if not self._new:
            return
        digests, steps, seconds = zip(*self._new, strict=True)
        arrays = {
            "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1),
            "lengths": np.array([*map(len, steps)]),
            "seconds": np.array(seconds),
            "features": np.concatenate([_bytes_of(one) for one in steps]),
        }

        def build(folder: Any) -> None:
            for name, array in arrays.items():
                cache.save(folder / f"{name}.npy", array)

        content = hashlib.sha256(arrays["digests"].tobytes() + arrays["features"].tobytes()).hexdigest()
        cache.load_or_build(self._kind, {"content": content}, build)
        self._new.clear()

    def _of(self, example: tuple[Tensor, ...]) -> Tensor:
        digest = _digest(example)
        places = self._stored.get(digest, [])
        while places and not self._is_same_in(places[0].entry, places[0], example):
            places.pop(0)
        if not places:
            found = self._computed(digest, example)
            self._bytes_left -= found.steps.nbytes
            if self._bytes_left >= 0:
                self._new.append(found)
            return found.steps
        self._counts.taken += 1
        self._counts.saved_seconds += float(self._entries[places[0].entry]["seconds"][places[0].example])
        return torch.from_numpy(self._bytes_at(places[0])).view(self._like.dtype).reshape(-1, *self._like.shape[1:])

    def _is_same_in(self, entry: int, place: _Stored, example: tuple[Tensor, ...]) -> bool:
        """Says whether an entry has what is computed here, by the first example of it that is needed."""
        if entry not in self._is_same:
            self._like = self._computed(b"", example).steps
            self._is_same[entry] = np.array_equal(_bytes_of(self._like), self._bytes_at(place))
        return self._is_same[entry]

    def _bytes_at(self, place: _Stored) -> np.ndarray:
        return self._entries[place.entry]["features"][place.begin : place.end]

    def _computed(self, digest: bytes, example: tuple[Tensor, ...]) -> _Features:
        start = time.perf_counter()
        steps = self._cut.features(example, notes_calls=False)[0].cpu()
        seconds = time.perf_counter() - start
        self._counts.computed += 1
        self._counts.computed_seconds += seconds
        return _Features(digest, steps, seconds)

    def _places(self) -> Iterator[tuple[bytes, _Stored]]:
        for number, entry in enumerate(self._entries):
            ends = entry["lengths"].cumsum()
            for example, digest in enumerate(entry["digests"]):
                end = int(ends[example])
                yield digest.tobytes(), _Stored(number, example, end - int(entry["lengths"][example]), end)


def _examples(inputs: tuple[Tensor, ...], lengths: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Divides a batch into batches of one example, texts without padding."""
    for row in range(len(inputs[0])):
        first, *others = (tensor[row : row + 1] for tensor in inputs)
        yield first if lengths is None else first[:, : int(lengths[row])], *others


def _digest(example: tuple[Tensor, ...]) -> bytes:
    digest = hashlib.sha256()
    for tensor in example:
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(_bytes_of(tensor.cpu()).tobytes())
    return digest.digest()


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """Gives the bytes of a tensor on the CPU, uint8 [length, bytes]."""
    return tensor.detach().reshape(len(tensor), -1).contiguous().view(torch.uint8).numpy()


def _fingerprint(cut: NetworkCut, below: Mapping[str, Tensor], device: torch.device) -> str:
    is_mixed = torch.is_autocast_enabled(device.type)
    facts = {
        "layout": _LAYOUT,
        "network": f"{type(cut.network).__module__}.{type(cut.network).__qualname__}",
        "cut": cut.name,
        "modules": [str(module) for module in cut.below],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": [torch.get_float32_matmul_precision(), str(torch.get_autocast_dtype(device.type)) * is_mixed],
    }
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in sorted(below.items()):
        digest.update(repr((name, tensor.dtype, tensor.shape, tensor.stride())).encode())
        digest.update(_bytes_of(tensor.detach().reshape(1, -1).cpu()).tobytes())
    return digest.hexdigest()[:24]
