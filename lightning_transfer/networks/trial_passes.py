"""Tells passes that find something out about a network from the pass of a training step, for hooks on the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_trial = ContextVar("is_trial", default=False)


@contextmanager
def trial_pass() -> Iterator[None]:
    """Marks the calls of a network in a block as no part of a training step: they may be of other examples."""
    token = _is_trial.set(True)
    try:
        yield
    finally:
        _is_trial.reset(token)


def is_trial_pass() -> bool:
    """Says whether the network is called for another purpose than the present training step."""
    return _is_trial.get()
