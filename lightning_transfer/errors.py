"""The one exception that a user's mistake raises, and the hint for a mistyped name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. Its message is one line: the value, what was expected and the way out.

    The command line prints the line and exits with status 2; library users see an ordinary ``ValueError``.
    """


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a question whether one of the nearest known names was meant.

    Args:
        name: The name that was given.
        known: The names that exist.
        otherwise: Text to return if no known name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
