"""Keyword arguments that a constructor hands on: named for type checkers, found in the source by the command line."""

from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from typing import Unpack as Keywords
else:

    class Keywords:
        """``**kwargs: Keywords[Options]``: Unpack for type checkers, any value at run time.

        The command line finds these arguments where they are handed on to, with their defaults and their help. By
        Unpack it would know the names and types alone.
        """

        def __class_getitem__(cls, options: type) -> Any:
            """Keeps the names, for tests, where the command line does not look."""
            return Annotated[Any, options]


__all__ = ["Keywords"]
