"""Draws the rows of an epoch so that each class is seen equally often."""

from collections.abc import Callable

import numpy as np

EpochOrder = Callable[[np.random.Generator], np.ndarray]  # the rows of an epoch in their order, by its generator


def balanced_order(rows: np.ndarray, labels: np.ndarray) -> EpochOrder:
    """Makes what draws as many rows as there are, equally many of each class but for one.

    Rows of a rare class are repeated, each equally often but for once. Of a frequent class, every epoch has others.

    Args:
        rows: int64 [rows], the rows to draw from.
        labels: int64 [rows], the class of each of them.

    Returns:
        A function from a generator to the rows of an epoch in random order: int64 [rows].
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[by_class], return_index=True)
    classes = np.split(rows[by_class], starts[1:])
    share, more = divmod(len(rows), len(classes))

    def draw(generator: np.random.Generator) -> np.ndarray:
        counts = share + (generator.permutation(len(classes)) < more)
        drawn = [
            np.concatenate([generator.permutation(members) for _ in range(-(-count // len(members)))] or [members])[
                :count
            ]
            for members, count in zip(classes, counts.tolist(), strict=True)
        ]
        return generator.permutation(np.concatenate(drawn))

    return draw
