"""Bounds what the dashboards of a run cost, by a share of the seconds that its training takes."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lightning_transfer.dashboards.events import has_boards
from lightning_transfer.data.batches import examples_in
from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import rest_hook, wake_hook

_PICTURE_SECONDS = 0.08  # of a picture of a kind that was not drawn before: they took 0.02 to 0.08 on a slow core
_TIMED = 0.8  # of the share; the rest is for what is called in each step, and too short to be timed
_BEFORE_THE_END = 0.25  # of what may be spent; the rest is for the pictures of the trained network
_FIRST_PIECE, _LARGEST_PIECE = 8, 64  # examples of a pass


def wall_and_cpu() -> np.ndarray:
    """Returns seconds on two clocks that never go back: that of the wall, and the CPU time of this process."""
    return np.array([time.perf_counter(), time.process_time()])


class Budget(L.Callback):
    """Bounds the seconds that the dashboards of a run take by a share of those of its training.

    Scalars, texts and the data of figures are always written, and count. A picture, or what runs the network, asks
    before it is drawn. It is drawn if all seconds spent so far, with those that it is expected to take, are within four
    fifths of the share of the training so far. The rest is for what is done in each step and too short to be timed.
    Until the training ends, a quarter of that may be spent. A drawing is expected to take as long as the last one of
    its kind, and a first pass of the network over few examples as long as a training step. What cannot be afforded is
    put off until it can, at the latest to the end of the training. A line then names what is left out. The seconds are
    those of one ``fit``: one that resumes begins anew. The bound holds on the wall's clock and in CPU time, as either
    may run while the other stands.

    The first rank decides for all ranks, so all of them have to ask.

    Args:
        share: The seconds of all dashboards over those of the fit without them; None for no bound.
        clock: Gives the seconds of each clock by which the bound holds.

    Raises:
        UserError: For a share that is not between 0 and 1.
    """

    def __init__(self, share: float | None = None, clock: Callable[[], np.ndarray] = wall_and_cpu) -> None:
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"dashboards.share is {share}: expected 0 to 1, such as 0.03, or null for no bound")
        self.share = share
        self._clock = clock
        self._trainer: L.Trainer | None = None
        self._reset()

    def _reset(self) -> None:
        self._begin = self._clock()
        self._spent = np.zeros_like(self._begin)
        self._opened: np.ndarray | None = None  # since when seconds are counted, while they are
        self._part = _BEFORE_THE_END
        self._last_seconds: dict[tuple[str, int], float] = {}  # of drawings, by kind and examples
        self._last_pass: tuple[int, float] | None = None  # of the network: examples and seconds
        self._batch_size, self._first_batch = 0, 0
        self._left_out: dict[str, None] = {}

    @property
    def spent(self) -> np.ndarray:
        """Seconds that the dashboards have taken so far, by clock."""
        return self._spent if self._opened is None else self._spent + self._clock() - self._opened

    @property
    def training(self) -> np.ndarray:
        """Seconds that the fit has taken so far, without its dashboards, by clock."""
        seconds: np.ndarray = self._clock() - self._begin - self.spent
        return seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._reset()
        self._trainer, self._first_batch = trainer, trainer.fit_loop.epoch_loop.total_batch_idx
        wake_hook(self, "on_train_batch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Notes the size of the first batch."""
        rest_hook(self, "on_train_batch_start")
        self._batch_size = examples_in(batch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets the rest of the share be spent."""
        self._part = 1.0

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says what was left out."""
        if self._left_out and self.share is not None:
            rank_zero_info(
                f"dashboards: left out {', '.join(self._left_out)}: they may take {100 * self.share:g} % of the"
                f" training's {self.training[0]:.1f} s; --dashboards.share null draws all"
            )
        self._trainer = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the seconds of what is done within it, which is done in any case."""
        if self._opened is not None:
            yield
            return
        self._opened = self._clock()
        try:
            yield
        finally:
            self._spent, self._opened = self.spent, None

    @contextmanager
    def drawing(
        self, kind: str, examples: int = 0, seconds: float = _PICTURE_SECONDS, is_wanted: bool = True
    ) -> Iterator[bool]:
        """Decides whether something is drawn now, and measures how long that takes; all ranks have to ask.

        Args:
            kind: What it is, as the line at the end names it.
            examples: Examples that the network is run on for it.
            seconds: What a first drawing is expected to take beside the network.
            is_wanted: Whether the first rank has anything to draw.
        """
        with self.counted():
            is_drawn = self._decide(kind, examples, seconds, is_wanted)
            start = self._clock()
            yield is_drawn
            if is_drawn:
                self._last_seconds[kind, examples] = self._since(start)

    @contextmanager
    def passing(self, examples: int) -> Iterator[None]:
        """Measures a pass of the network over examples, which tells what the next one is expected to take."""
        start = self._clock()
        yield
        self._last_pass = examples, self._since(start)

    def _since(self, start: np.ndarray) -> float:
        return float((self._clock() - start).max())

    def pieces(self, examples: int) -> Iterator[slice]:
        """Yields slices of examples to run the network on, each twice as long as the one before, while it is afforded.

        They use at most half of what is left. One rank alone may ask.

        Args:
            examples: Number of all examples.
        """
        done, size, begin, most = 0, _FIRST_PIECE, self._clock(), self.left / 2
        while done < examples:
            size = min(size, examples - done)
            if self._since(begin) + self._pass_seconds(size) > most:
                return
            with self.passing(size):
                yield slice(done, done + size)
            done, size = done + size, min(2 * size, _LARGEST_PIECE)

    @property
    def left(self) -> float:
        """Seconds that can be spent now."""
        if self.share is None:
            return math.inf
        return float((self._part * _TIMED * self.share * self.training - self.spent).min())

    def affordable(self, examples: int, passes: int = 1, seconds: float = 0.0) -> int:
        """Returns how many of some examples can be afforded now: all, a half, a quarter and so on.

        Args:
            examples: Number of all examples.
            passes: How many times the network is run on them.
            seconds: What each example takes beside the network.
        """
        while examples and self._pass_seconds(passes * examples) + examples * seconds > self.left:
            examples //= 2
        return examples

    def leave_out(self, what: str) -> None:
        """Notes a part of a drawing that is not drawn, for the line at the end."""
        self._left_out[what] = None

    def _decide(self, kind: str, examples: int, seconds: float, is_wanted: bool) -> bool:
        if self.share is None or self._trainer is None:
            return is_wanted
        if not has_boards(self._trainer):
            return False
        expected = self._last_seconds.get((kind, examples), seconds + self._pass_seconds(examples))
        is_drawn = is_wanted and expected <= self.left
        if self._trainer.world_size > 1:
            is_drawn = self._trainer.strategy.broadcast(is_drawn)
        self._left_out.pop(kind, None)
        if is_wanted and not is_drawn:
            self.leave_out(kind)
        return is_drawn

    def _pass_seconds(self, examples: int) -> float:
        """Returns what a pass takes at most, as far as the last pass tells, or the steps of the training."""
        if not examples or self.share is None or self._trainer is None:
            return 0.0
        if self._last_pass is not None:
            last, seconds = self._last_pass
            return seconds * max(1.0, examples / last)
        steps = self._trainer.fit_loop.epoch_loop.total_batch_idx - self._first_batch
        if steps < 1 or not self._batch_size:
            return math.inf
        # No pass takes longer than a step. A part of one is as much of a part of the share as a whole one of the whole.
        return self._part * float(self.training.max()) / steps * max(1.0, examples / self._batch_size)
