"""Finds which split is meant: by the names of folders and files, and by what a user asks for."""

import re
from collections.abc import Iterable

from lightning_transfer.errors import UserError

# A name that is asked for is also found under the other words of its line.
_SYNONYMS = (
    ("train", "training"),
    ("validation", "valid", "val", "dev", "validate"),
    ("test", "testing", "eval", "evaluation"),
)
_WORDS = frozenset(word for line in _SYNONYMS for word in line)
# What a folder of a split may be called besides: train_images, test-set, my data.
_NEUTRAL = frozenset(
    re.split(" ", "data dataset file files folder image images img imgs my part photo photos picture pictures seg set")
) | {"split", "text", "texts"}


# What is before and after a word for a split, the longest at that place.
_WORD_AND_REST = re.compile(rf"(.*?)({'|'.join(sorted(_WORDS, key=len, reverse=True))})(.*)")


def word_of_folder(name: str) -> str | None:
    """Finds the word for a split in the name of a folder, which holds nothing else but neutral words and numbers.

    ``Train``, ``train_images`` and ``01-train`` are called train, and ``bullet train`` is not.
    """
    words = _words_in(name)
    found = [word for word in words if word in _WORDS]
    return found[0] if len(found) == 1 and all(word in _NEUTRAL for word in words if word != found[0]) else None


def words_of_folders(names: Iterable[str]) -> dict[str, str]:
    """Finds the words for splits in the names of folders that lie side by side.

    Other words count as neutral where all folders have the same: ``alphabet_train`` beside ``alphabet_test``, and
    ``trainset`` beside ``testset``.

    Returns:
        Name of a folder -> its word, for those that have one.
    """
    names = list(names)
    return {name: word for name in names if (word := word_of_folder(name))} or _words_within(names)


def words_of_files(names: Iterable[str]) -> dict[str, str]:
    """Finds the words for splits in the names of files that lie side by side; otherwise as :func:`words_of_folders`."""
    stems = {name: name.partition(".")[0] for name in names}
    within = _words_within(stems.values())
    return {name: word for name in stems if (word := word_of_file(name))} or {
        name: within[stem] for name, stem in stems.items() if stem in within
    }


def words_that_lead(names: Iterable[str]) -> dict[str, str]:
    """Finds the words for splits that names begin with, as ``train-clean``, ``train-noisy`` and ``test-clean``.

    Returns:
        Name of a folder -> its word; empty where one begins with another word, or none or all are for training.
    """
    first = {name: next(iter(_words_in(name)), "") for name in names}
    are_training = {is_training(word) for word in first.values()}
    return first if are_training == {True, False} and _WORDS.issuperset(first.values()) else {}


def _words_within(names: Iterable[str]) -> dict[str, str]:
    """Finds words for splits where the rest of all names is the same. Classes may be called trainer and tester."""
    parts = {name: _WORD_AND_REST.fullmatch(name.lower()) for name in names}
    rests = {match and (match[1], match[3]) for match in parts.values()}
    words = {name: match[2] for name, match in parts.items() if match}
    endings = {re.match(r"[^\W\d_]*", match[3])[0] for match in parts.values() if match}  # type: ignore[index]
    are_splits = len(words) > 1 and len(rests) == 1 and endings <= {"", *_NEUTRAL}
    return words if are_splits and any(map(is_training, words.values())) else {}


def word_of_file(name: str) -> str | None:
    """Finds the word for a split in the name of a file, which may hold others: ``reviews_train_v2.csv``."""
    found = {word for word in _words_in(name.partition(".")[0]) if word in _WORDS} or {
        word for word in _words_in(name) if word in _WORDS
    }
    return found.pop() if len(found) == 1 else None


def is_neutral(name: str) -> bool:
    """Says whether a folder's name tells nothing of what is in it, as ``images`` does. A number may be a class."""
    words = _words_in(name)
    return bool(words) and all(word in _NEUTRAL for word in words)


def is_word(name: str) -> bool:
    """Says whether a name is a word for a split."""
    return name in _WORDS


def is_training(name: str) -> bool:
    """Says whether a word for a split is one for the training split."""
    return name in _SYNONYMS[0]


def is_test(name: str) -> bool:
    """Says whether a name is one for the test split."""
    return (word_of_folder(name) or name.lower()) in _SYNONYMS[2]


def find_split(asked_for: str, names: Iterable[str]) -> str | None:
    """Finds the split that is asked for, by its own name, in any case, or by another word for the same.

    Args:
        asked_for: For example ``test``, which ``Test`` and ``eval`` answer to as well.
        names: The names of the splits that there are.

    Returns:
        The name, or None if there is none.

    Raises:
        UserError: If several answer to it.
    """
    names = list(names)
    if asked_for in names:
        return asked_for
    if re.search(r"[\[+]", asked_for):  # slices, or several splits
        return None
    word = word_of_folder(asked_for) or asked_for.lower()
    line: tuple[str, ...] = next((line for line in _SYNONYMS if word in line), ())
    same_word = [name for name in names if name.lower() == word]
    found = same_word or [name for name in names if name.lower() in line]
    if len(found) > 1:
        raise UserError(f"split {asked_for!r} may be {' or '.join(found)}: name one of them")
    return found[0] if found else None


def parts_of(asked_for: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Takes apart what is asked for, as ``train[:50%]+test``: the name of each split, and which of its rows."""
    names = list(names)
    if asked_for in names:
        return [(asked_for, "")]
    parts = [part.strip().partition("[") for part in asked_for.split("+")]
    return [(find_split(name, names) or name, place) for name, _, place in parts]


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts names of splits: training, validation, test, and others as they were."""
    places = {word: place for place, word in enumerate(word for line in _SYNONYMS for word in line)}
    return sorted(names, key=lambda name: places.get(name.lower(), len(places)))


def find_validation(names: Iterable[str]) -> str | None:
    """Finds the validation split that data brings along, the first of validation, valid, val, dev and validate."""
    lower = {name.lower(): name for name in reversed(list(names))}
    return next((lower[word] for word in _SYNONYMS[1] if word in lower), None)


def _words_in(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())
