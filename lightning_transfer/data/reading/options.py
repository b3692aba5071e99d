"""How tables of text files are written: separator, header, encoding, quotation marks, missing cells."""

import codecs
from dataclasses import dataclass
from typing import Literal

from lightning_transfer.errors import UserError

Quoting = Literal["double", "single", "none"]


@dataclass(frozen=True)
class ReaderOptions:
    r"""Says how CSV files and their like are written, where it cannot be seen.

    Args:
        separator: The character between cells, ``\t`` for a tab. If null, the one of comma, semicolon, tab and bar that
            gives each row as many cells as the first.
        header: Whether the first row has the names of the columns. A list names the columns of tables without a
            header; false numbers them from 0.
        encoding: The name of the encoding, ``latin-1`` for instance. If null, UTF-8, or what the byte order mark says.
        quoting: The quotation marks around cells that hold a separator or a line break: double, single or none. If
            null, double ones; they are text where they would join rows that are whole without them.
        escape: The character before quotation marks within cells, ``\`` for instance. If null, they are doubled.
        missing: What a cell without a value holds. Other words, such as NA and None, are text.

    Raises:
        UserError: For a separator or an escape that is no single character, and an unknown encoding.
    """

    separator: str | None = None
    header: bool | list[str] = True
    encoding: str | None = None
    quoting: Quoting | None = None
    escape: str | None = None
    missing: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if self.separator == r"\t":  # as it is typed in a shell
            object.__setattr__(self, "separator", "\t")
        for name in ("separator", "escape"):
            character = getattr(self, name)
            if character is not None and (len(character) != 1 or character in "\r\n"):
                raise UserError(f"data.reader.{name} is {character!r}: expected a single character, or \\t for a tab")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise UserError(
                f"data.reader.encoding is {self.encoding!r}: expected the name of an encoding, such as utf-8, utf-16,"
                " latin-1, cp1252 or gb18030"
            ) from error
