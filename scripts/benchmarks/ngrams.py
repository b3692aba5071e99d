"""A baseline for language models: interpolated trigrams, Kneser-Ney smoothed. Source: Chen and Goodman, 1999."""

import math

import numpy as np

DISCOUNT = 0.75


class Counts:
    """Counts how often each of many whole numbers occurs.

    Args:
        keys: int64, the numbers to count.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Gives the count of each key, which is 0 if it never occurred."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


def perplexity(train: np.ndarray, validation: np.ndarray, size: int) -> float:
    """Computes the perplexity of a stream under the trigrams of another.

    Args:
        train: int [tokens].
        validation: int [tokens].
        size: Number of entries of the vocabulary.
    """
    train, validation = train.astype(np.int64), validation.astype(np.int64)
    trigrams = Counts((train[:-2] * size + train[1:-1]) * size + train[2:])
    contexts = Counts(trigrams.keys // size)  # the number of different words that follow each pair
    pairs = Counts(train[:-2] * size + train[1:-1])
    followers = Counts(trigrams.keys % size**2)  # the number of different words that come before each pair
    middles = np.bincount(followers.keys // size, weights=followers.counts, minlength=size)
    variety = np.bincount(followers.keys // size, minlength=size)
    ends = np.bincount(np.unique(train[:-1] * size + train[1:]) % size, minlength=size) + 1

    first, second, word = validation[:-2], validation[1:-1], validation[2:]
    single = ends[word] / ends.sum()
    middle = np.maximum(middles[second], 1)
    double = np.maximum(followers.of(second * size + word) - DISCOUNT, 0) / middle
    double += np.where(middles[second] > 0, DISCOUNT * variety[second] / middle, 1) * single
    pair = first * size + second
    seen = pairs.of(pair)
    triple = np.maximum(trigrams.of(pair * size + word) - DISCOUNT, 0) / np.maximum(seen, 1)
    triple += np.where(seen > 0, DISCOUNT * contexts.of(pair) / np.maximum(seen, 1), 1) * double
    return math.exp(-np.log(triple).mean())
