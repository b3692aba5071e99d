"""Finds where an error comes from: the error of a class below the parser's own errors, and the user's line of code."""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse

import lightning_transfer

_PARSER = Path(jsonargparse.__file__).parent
_PACKAGE = Path(lightning_transfer.__file__).parent
_LIBRARIES = {_PARSER.parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))}


def origin(error: BaseException) -> BaseException:
    """Finds the error that the parser's errors wrap, or the error itself where the parser did not raise it.

    Args:
        error: The error as caught.

    Returns:
        The error that a class or its module raised, if any; otherwise the parser's first error.
    """
    found = list(_wrapped(error))
    return next((one for one in found if not _is_of_parser(one)), found[0])


def is_below_parser(error: BaseException) -> bool:
    """Says whether the parser called the code that raised the error: a constructor, or the module of a class."""
    return any(_is_within(file, {_PARSER}) for file, _ in _lines(error))


def place_in_config() -> str:
    """Finds the argument whose class's settings the parser is reading: its dotted path and a dot; empty outside one.

    jsonargparse has a parser of its own for each class, which only knows the names of that class's settings.
    """
    arguments: list[Any] = []
    for frame, _ in traceback.walk_stack(None):
        owner = frame.f_locals.get("self")
        if type(owner).__name__ == "ActionTypeHint" and owner not in arguments[-1:]:
            arguments.append(owner)
    return "".join(f"{argument.dest}." for argument in reversed(arguments))


def task_of(error: BaseException) -> str | None:
    """Names the task of ``data.tasks`` whose data a parser was building as the error came; None without one.

    The parser keeps no path to what it builds. Its function ``adapt_typehints`` has the key of a mapping as ``k``. A
    parser without that gives None, and the error's words stay.
    """
    is_within = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        is_within |= frame.f_locals.get("key") == "tasks"
        if is_within and frame.f_code.co_name == "adapt_typehints" and isinstance(frame.f_locals.get("k"), str):
            return str(frame.f_locals["k"])
    return None


def is_restoring(error: BaseException) -> bool:
    """Says whether Lightning was giving the state in a checkpoint to the parts of a run as the error came."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        Path(frame.filename).name == "checkpoint_connector.py" and frame.name.strip("_").startswith("restore")
        for frame in frames
    )


def own_line(error: BaseException) -> str | None:
    """Names the innermost line of the user's own code that the error went through, as ``file.py:7``; None without one.

    Code is the user's own unless it belongs to Python, an installed package or this one.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return _named(error.filename, error.lineno)
    return _last_outside(error, {*_LIBRARIES, _PACKAGE})


def described(error: BaseException) -> str:
    """Describes an error in one line: the place in the code, the kind and the words.

    The place is the user's own line, or else the innermost line of this package, or else the line that raised it.
    """
    place = own_line(error) or _last_outside(error, _LIBRARIES) or _last_outside(error, set())
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return ": ".join(part for part in (place, type(error).__name__, " ".join(words.split())) if part)


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    if not _is_of_parser(error) or cause is None:
        yield error
        return
    # The parser tries each member of a union, and names the first one's error as the cause, although the class may be
    # another member. The frame that raises has a list of all errors. A parser without it still has the first.
    tried = [found for found in _in_lists_of_last_frame(error) if isinstance(found, BaseException)]
    for one in tried or [cause]:
        yield from _wrapped(one)


def _in_lists_of_last_frame(error: BaseException) -> Iterator[object]:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    for value in list(frame.f_locals.values()):
        if isinstance(value, list):
            yield from value


def _is_of_parser(error: BaseException) -> bool:
    """Says whether the parser itself raised the error. A syntax error only seems so, as none of its module ran."""
    lines = _lines(error)
    return bool(lines) and not isinstance(error, SyntaxError) and _is_within(lines[-1][0], {_PARSER})


def _last_outside(error: BaseException, folders: set[Path]) -> str | None:
    outside = [line for line in _lines(error) if not _is_within(line[0], folders)]
    return _named(*outside[-1]) if outside else None


def _lines(error: BaseException) -> list[tuple[str, int | None]]:
    return [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]


def _is_within(file: str, folders: set[Path]) -> bool:
    return file.startswith("<frozen") or any(Path(file).is_relative_to(folder) for folder in folders)


def _named(file: str, line: int | None) -> str:
    here = Path.cwd()
    return f"{Path(file).relative_to(here) if Path(file).is_relative_to(here) else file}:{line}"
