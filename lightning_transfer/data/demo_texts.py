"""Generates reviews: a source domain and a small target domain that need no download.

Each review is a few sentences about films (source) or restaurants (target), positive or negative as a whole. A small
grammar writes them so that no single word tells the label. An opinion is equally often an adjective of its own polarity
or the negated opposite ("is not dull", "nobody could call the cast gifted"). Where one sentence has two opposite
opinions, only the main one counts ("although the plot is clever, the ending is weak"). Between them are sentences
without an opinion, and opinions of others, which do not count. A bag of words is near chance. A network that has once
learned negation, contrast and whose opinion it is can use that in both domains.

====== =========== ================ ============
domain about       training reviews test reviews
====== =========== ================ ============
source films       4,000            2,000
target restaurants 200              2,000
====== =========== ================ ============

Half the target's adjectives also occur in the source. ``pytest tests/test_demo_texts.py`` checks these claims.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import datasets
import numpy as np

from lightning_transfer.errors import UserError

Task = Literal["source", "target"]
Split = Literal["train", "test"]

CLASS_NAMES = ["negative", "positive"]


class _Domain(NamedTuple):
    """The words of a domain; ``adjectives`` by polarity, negative first."""

    subjects: Sequence[str]
    adjectives: tuple[Sequence[str], Sequence[str]]
    neutral: Sequence[str]
    reviews: dict[Split, int]


_SHARED_ADJECTIVES = (
    ["bad", "poor", "awful", "terrible", "weak", "disappointing", "sloppy", "unpleasant", "horrible", "mediocre"],
    ["good", "great", "excellent", "wonderful", "superb", "delightful", "fine", "pleasant", "fantastic", "impressive"],
)
_DOMAINS: dict[Task, _Domain] = {
    "source": _Domain(
        subjects=[
            *("the plot", "the acting", "the cast", "the ending", "the dialogue", "the camera work", "the music"),
            *("the script", "the pacing", "the main actor", "the director", "the first half", "the last scene"),
        ],
        adjectives=(
            [
                "dull",
                "predictable",
                "wooden",
                "shallow",
                "confusing",
                "forgettable",
                "clumsy",
                "tedious",
                "lifeless",
                "silly",
            ],
            [
                "gripping",
                "clever",
                "moving",
                "original",
                "convincing",
                "brilliant",
                "charming",
                "memorable",
                "witty",
                "sincere",
            ],
        ),
        neutral=[
            *("i saw it on a tuesday with my sister .", "it runs for about two hours .", "it is set in the fifties ."),
            *("the story begins in a small town .", "i had not read the book before .", "it came out last summer ."),
            *("there were not many people in the cinema .", "we watched it at home , but with subtitles ."),
        ],
        reviews={"train": 4000, "test": 2000},
    ),
    "target": _Domain(
        subjects=[
            *("the soup", "the service", "the waiter", "the bread", "the menu", "the dessert", "the coffee"),
            *("the kitchen", "the terrace", "the fish", "the wine list", "the dining room", "the lunch"),
        ],
        adjectives=(
            ["stale", "greasy", "bland", "overpriced", "slow", "rude", "cold", "dirty", "soggy", "noisy"],
            ["delicious", "fresh", "tasty", "friendly", "generous", "crisp", "attentive", "tender", "cosy", "refined"],
        ),
        neutral=[
            *("we went there on a friday evening .", "it is next to the station .", "they do not take cards ."),
            *("we had booked a table for four .", "i ordered the daily special .", "it opened a year ago ."),
            *("there is no parking nearby .", "my friend had the salad , but without onions ."),
        ],
        reviews={"train": 200, "test": 2000},
    ),
}

_PLAIN = ["{subject} is {adjective}", "i found {subject} {adjective}", "{subject} seemed really {adjective} to me"]
_NEGATED = [
    "{subject} is not {adjective}",
    "{subject} is never really {adjective}",
    "i did not find {subject} {adjective}",
    "nobody could call {subject} {adjective}",
    "i would not say that {subject} seemed {adjective}",
]
# The main opinion may come first or last.
_CONTRASTS = [
    "{other} , but {main} .",
    "although {other} , {main} .",
    "{main} , although {other} .",
    "{main} , even if {other} .",
    "{other} ; still , {main} .",
]
_OTHERS = ["my brother thought that", "a critic wrote that", "some people say that", "we had been told that"]


def generate(task: Task, split: Split, seed: int = 0, count: int | None = None) -> datasets.Dataset:
    """Writes one split of one domain, as a pure function of its arguments.

    Args:
        task: ``source`` (films, many training reviews) or ``target`` (restaurants, few).
        split: ``train`` or ``test``, which share no review.
        seed: At least 0; another seed writes other reviews.
        count: Number of reviews, from 2 to the domain's own number; the latter if omitted.

    Returns:
        Columns ``text`` and ``label`` (0 negative, 1 positive) in random order; a whole split is balanced.

    Raises:
        UserError: For an unknown domain or split, a negative seed, or a count out of range.
    """
    for name, value, known in (("task", task, get_args(Task)), ("split", split, get_args(Split))):
        if value not in known:
            raise UserError(f"demo {name} {value!r} is not one of {', '.join(known)}")
    domain = _DOMAINS[task]
    count = domain.reviews[split] if count is None else count
    if seed < 0:
        raise UserError(f"demo seed is {seed}: expected 0 or more")
    if not 2 <= count <= domain.reviews[split]:
        raise UserError(f"demo count is {count}: expected 2 to {domain.reviews[split]}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(get_args(Task).index(task),)))
    # The test split is written first and the training split after it, without repetitions, so they share no review.
    sizes = domain.reviews["test"], domain.reviews["train"]
    labels = np.concatenate([rng.permutation(np.arange(size) % 2) for size in sizes])
    seen: set[str] = set()
    texts = [_new_review(domain, int(label), rng, seen) for label in labels]
    start = 0 if split == "test" else sizes[0]
    part = slice(start, start + count)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=CLASS_NAMES)})
    return datasets.Dataset.from_dict({"text": texts[part], "label": labels[part]}, features=features)


def _new_review(domain: _Domain, label: int, rng: np.random.Generator, seen: set[str]) -> str:
    while (review := _review(domain, label, rng)) in seen:
        pass
    seen.add(review)
    return review


def _review(domain: _Domain, label: int, rng: np.random.Generator) -> str:
    """Writes two to four opinions, most of the label's polarity, and up to two sentences that do not count."""
    opinions = int(rng.integers(2, 5))
    dissenting = int(rng.integers(2)) if opinions > 2 else 0
    polarities = rng.permutation([1 - label] * dissenting + [label] * (opinions - dissenting))
    sentences = [_sentence(domain, int(polarity), rng) for polarity in polarities]
    sentences += [_aside(domain, rng) for _ in range(rng.integers(3))]
    return " ".join(sentences[index] for index in rng.permutation(len(sentences)))


def _sentence(domain: _Domain, polarity: int, rng: np.random.Generator) -> str:
    main = _opinion(domain, polarity, rng)
    if rng.random() < 0.5:
        return main + " ."
    return _pick(_CONTRASTS, rng).format(main=main, other=_opinion(domain, 1 - polarity, rng))


def _aside(domain: _Domain, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return _pick(domain.neutral, rng)
    return f"{_pick(_OTHERS, rng)} {_opinion(domain, int(rng.integers(2)), rng)} ."


def _opinion(domain: _Domain, polarity: int, rng: np.random.Generator) -> str:
    negated = int(rng.integers(2))  # half of the time, so neither the adjective nor the negation tells the polarity
    template = _pick(_NEGATED if negated else _PLAIN, rng)
    adjectives = _SHARED_ADJECTIVES if rng.random() < 0.5 else domain.adjectives
    return template.format(subject=_pick(domain.subjects, rng), adjective=_pick(adjectives[polarity ^ negated], rng))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
