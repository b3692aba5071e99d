"""The type of keyword arguments that a constructor passes on: type checkers know their names and types.

The command line finds them in the source.
"""

from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from typing import Unpack as Keywords
else:

    class Keywords:
        """The type in ``**kwargs: Keywords[Options]``: Unpack for type checkers, any value at run time.

        The command line finds these arguments, with defaults and help, in the class that they are passed on to. By
        Unpack it would only know their names and types.
        """

        def __class_getitem__(cls, options: type) -> Any:
            """Keeps the options for tests, in a place that the command line does not read."""
            return Annotated[Any, options]


__all__ = ["Keywords"]
