"""Divides files by the folders that they lie in: into splits, and within these into classes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.data.reading.split_words import (
    is_neutral,
    is_training,
    is_word,
    word_of_folder,
    words_of_folders,
    words_that_lead,
)

# Folders beside those of the classes whose files have none, as in the archive of IMDB. Each is a split of its own.
_UNLABELLED = frozenset({"unsup", "unsupervised", "unlabeled", "unlabelled"})


class ClassFolders(NamedTuple):
    """Files by split, and their classes.

    Attributes:
        splits: Name of a split -> its files.
        classes: File -> its class; a file of a split without classes has none.
        folders: File -> the folder below its class in which it lies, empty if it lies in the class's own.
        notes: What a user should hear of, a line each: files that were left out, and choices among several readings.
    """

    splits: dict[str, list[str]]
    classes: dict[str, str]
    folders: dict[str, str]
    notes: list[str]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes of all splits in natural order."""
        return in_natural_order(set(self.classes.values()))


_Paths = dict[str, list[str]]  # file -> its path in parts, from where it is looked at


def divide(files: Iterable[str]) -> ClassFolders:
    """Divides files into splits and classes.

    Folders at the top are splits where they are called so and hold those of the classes. They may lie in one folder
    more, and each class may hold its own splits. Folders of the same name deeper down are classes. The folders just
    below the split are the classes, and what lies deeper belongs to them, as torchvision's ImageFolder reads it.

    Args:
        files: Paths with forward slashes.
    """
    notes: list[str] = []
    splits = _splits_of(_without_wrappers({file: file.split("/") for file in files}), notes)
    tops = [_tops(paths) for paths in splits.values()]
    known = set().union(*(top for top in tops if len(top) > 1))  # not taken off where a split has them alone
    splits = {name: _unwrapped(name, paths, known) for name, paths in splits.items()}
    _set_unlabelled_apart(splits, notes)
    _descend_to_classes(splits)
    found = ClassFolders({}, {}, {}, notes)
    unlabelled = _without_classes(splits)
    for name, paths in splits.items():
        labelled = {file: parts for file, parts in paths.items() if len(parts) > 1 and name not in unlabelled}
        found.splits[name] = list(labelled or paths)
        if labelled and (strays := [file for file in paths if file not in labelled]):
            notes.append(f"{_some(strays)} of split {name} left out, beside the folders of its classes")
        found.classes.update({file: parts[0] for file, parts in labelled.items()})
        found.folders.update({file: "/".join(parts[1:-1]) for file, parts in labelled.items()})
    if any(found.folders.values()):
        notes.append(f"the classes are the folders {_some(found.class_names, '')}, with all that lies deeper in them")
    return found


def _without_wrappers(paths: _Paths) -> _Paths:
    """Takes off the folders at the top that everything lies in."""
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(parts) > 2 for parts in paths.values()):
        if word_of_folder(next(iter(paths.values()))[0]):
            break
        paths = {file: parts[1:] for file, parts in paths.items()}
    return paths


def _splits_of(paths: _Paths, notes: list[str]) -> dict[str, _Paths]:
    below: dict[str, _Paths] = {}
    for file, parts in paths.items():
        if len(parts) > 1:
            below.setdefault(parts[0], {})[file] = parts[1:]
    words = words_of_folders(below) or _words_that_lead(below)
    if words and _are_splits(below, words, notes):
        at_top = [file for file, parts in paths.items() if len(parts) == 1]
        if at_top:
            notes.append(f"{_some(at_top)} left out, beside the folders of the splits")
        splits: dict[str, _Paths] = {}
        for folder, files in below.items():
            # A class of that name, which this split has alone, lies in other splits too.
            is_class = any(folder in _tops(below[other]) for other in below.keys() - {folder})
            files = files if is_class else _without_own_name(folder, files)
            splits.setdefault(words.get(folder, folder), {}).update(files)
        return splits
    if below and all(any(_is_training_folder(parts) for parts in files.values()) for files in below.values()):
        return _splits_within_classes(paths, notes)
    return {"train": paths}


def _tops(paths: _Paths) -> set[str]:
    """Lists what lies at the top, or below a folder that tells nothing, such as ``images``, where all lie in that."""
    tops = {parts[0] for parts in paths.values()}
    if len(tops) == 1 and is_neutral(*tops) and all(len(parts) > 2 for parts in paths.values()):
        return _tops({file: parts[1:] for file, parts in paths.items()})
    return tops


def _words_that_lead(below: dict[str, _Paths]) -> dict[str, str]:
    """Finds splits whose names begin with words for them and that hold the same classes."""
    classes = [{parts[0] for parts in files.values() if len(parts) > 1} for files in below.values()]
    return words_that_lead(below) if classes and set.intersection(*classes) else {}


def _without_own_name(folder: str, files: _Paths) -> _Paths:
    """Takes off a folder that is called as the one it lies in, where all files lie in it: ``my_test/my_test/1.png``."""
    while files and all(len(parts) > 1 and parts[0] == folder for parts in files.values()):
        files = {file: parts[1:] for file, parts in files.items()}
    return files


def _are_splits(below: dict[str, _Paths], words: dict[str, str], notes: list[str]) -> bool:
    """Says whether folders that are called as splits are splits, and not classes beside others."""
    others = [folder for folder in below if folder not in words and folder.lower() not in _UNLABELLED]
    deep = {folder: {parts[0] for parts in files.values() if len(parts) > 1} for folder, files in below.items()}
    training = [folder for folder, word in words.items() if is_training(word)]
    if not others:
        return bool(training) or len(below) == 1 or any(deep.values())
    of_training = {name for folder in training for name in deep[folder]}
    if of_training and (len(words) > 1 or any(not deep[name] or deep[name] & of_training for name in others)):
        return True
    there_is = f"{_some(list(words), '')} counts as a class beside {_some(others, '')}"
    notes.append(f"{there_is}: for a split, put the folders of the classes into train and test")
    return False


def _is_training_folder(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and is_training(word_of_folder(parts[0]) or "")


def _splits_within_classes(paths: _Paths, notes: list[str]) -> dict[str, _Paths]:
    """Reads folders of classes of which each holds its own folders of splits."""
    splits: dict[str, _Paths] = {}
    outside = [file for file, parts in paths.items() if len(parts) < 3]
    if outside:
        notes.append(f"{_some(outside)} left out, beside the folders of the splits in each class")
    for file, parts in paths.items():
        if len(parts) > 2:
            splits.setdefault(word_of_folder(parts[1]) or parts[1], {})[file] = [parts[0], *parts[2:]]
    return splits


def _unwrapped(split: str, paths: _Paths, known: set[str]) -> _Paths:
    """Takes off folders that all files of a split lie in and that tell nothing: images, or the split's own name.

    Folders that other splits have beside others are ``known``, and tell of a class.
    """
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(parts) > 2 for parts in paths.values()):
        wrapper = next(iter(paths.values()))[0]
        tells_nothing = split in (wrapper, word_of_folder(wrapper)) or is_neutral(wrapper)
        if wrapper in known or not tells_nothing:
            break
        paths = {file: parts[1:] for file, parts in paths.items()}
    return paths


def _set_unlabelled_apart(splits: dict[str, _Paths], notes: list[str]) -> None:
    for name, paths in list(splits.items()):
        apart = {file: parts for file, parts in paths.items() if len(parts) > 1 and parts[0].lower() in _UNLABELLED}
        if not apart or len(apart) == len(paths):
            continue
        splits[name] = {file: parts for file, parts in paths.items() if file not in apart}
        for file, parts in apart.items():
            splits.setdefault(parts[0].lower(), {})[file] = parts[1:]
        folder = next(iter(apart.values()))[0]
        notes.append(f"{len(apart)} files of {name}/{folder} have no class: they are the split {folder.lower()}")


def _descend_to_classes(splits: dict[str, _Paths]) -> None:
    """Takes off folders that the files of all splits lie in, until there are several classes, or files."""
    while True:
        labelled = [parts for name, paths in splits.items() if name not in _UNLABELLED for parts in paths.values()]
        if len({parts[0] for parts in labelled}) != 1 or any(len(parts) < 3 for parts in labelled):
            return
        for name in splits.keys() - _UNLABELLED:
            splits[name] = {file: parts[1:] for file, parts in splits[name].items()}


def _without_classes(splits: dict[str, _Paths]) -> set[str]:
    """Finds splits that have no classes.

    These are the ones called so. Others have folders that no split with a word for its name has, and either have
    another name themselves, or are not trained on and have ``images`` or the like alone.
    """
    classes = {name: {parts[0] for parts in paths.values() if len(parts) > 1} for name, paths in splits.items()}
    known = set().union(*(classes[name] for name in splits if is_word(name)))
    trained = set().union(*(classes[name] for name in splits if is_training(name)))
    without = {name for name in splits if name in _UNLABELLED or (not is_word(name) and not classes[name] & known)}
    for name in splits:
        tells_nothing = all(is_neutral(folder) and folder not in trained for folder in classes[name])
        if trained and not is_training(name) and tells_nothing:
            without.add(name)
    return without


def _some(names: Sequence[str], kind: str = "files") -> str:
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} {kind if len(names) > 1 else kind[:-1]} ({shown})" if kind else shown
