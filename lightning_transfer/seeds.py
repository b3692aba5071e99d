"""The seed of a run, from which data and modules derive everything that they draw."""

import os

import lightning as L
import torch


def run_seed(trainer: L.Trainer | None = None) -> int:
    """Returns the seed of the run that is about to begin, the same on all its processes.

    ``seed_everything`` puts it into the environment. Otherwise, it is the last seed of torch's generator. That one is
    read before the first step, because every step seeds the generator anew.

    Args:
        trainer: The trainer of the run, if there is one.
    """
    given = os.environ.get("PL_GLOBAL_SEED")
    if given is not None:
        return int(given)
    seed = torch.initial_seed()
    return seed if trainer is None else int(trainer.strategy.broadcast(seed))
