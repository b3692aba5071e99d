"""The one exception that a user's mistake raises, and the hints for a mistyped name and a missing library."""

import difflib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_OPTION_OF_DATA = re.compile(r"(?<![\w.])data\.(?!tasks\b)(?=[a-z])")


class UserError(ValueError):
    """A mistake in the input. Its message is one line: the value, what was expected and the way out.

    The command line prints the line and exits with status 2; library users see an ordinary ``ValueError``.
    """


def in_one_line(error: BaseException) -> str:
    """Describes an error of a library in one line. Its reason may be on a second one, and some have no words."""
    return " ".join(str(error).split()) or type(error).__name__


def options_of_task(line: str, task: str) -> str:
    """Names the options of the data in a line as they are given for one of several tasks: ``data.tasks.books.path``."""
    return _OPTION_OF_DATA.sub(f"data.tasks.{task}.", line)


@contextmanager
def with_options_of_task(task: str) -> Iterator[None]:
    """Has a mistake that a block finds in a task's data name the options as they are given for that task."""
    try:
        yield
    except UserError as error:
        raise UserError(options_of_task(str(error), task)) from error.__cause__


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a question whether one of the nearest known names was meant.

    Args:
        name: The name that was given.
        known: The names that exist.
        otherwise: Text to return if no known name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def require_library(library: str, user: str, extra: str | None = None) -> None:
    """Refuses to go on without a library that only an extra of this package installs.

    Args:
        library: Name of the library.
        user: What needs it.
        extra: Name of the extra, where it is not the library's.

    Raises:
        UserError: If the library is not installed.
    """
    found = importlib.util.find_spec(library)
    if found is None or found.origin is None:  # without a file it is a mere folder of that name, such as ./wandb
        # The line works for a wheel and for a clone: pip keeps the package that this Python has, and adds the extra.
        line = f"{shlex.quote(sys.executable)} -m pip install 'lightning-transfer[{extra or library}]'"
        raise UserError(f"{user} needs {library}, which is not installed: {line}")
