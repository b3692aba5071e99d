"""Writes an HTML page that needs no network and no other file, and has light and dark colours."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from lightning_transfer.report.style import STYLE

_NOTHING = Markup("")
_HEAD = Markup('<th scope="col">{}</th>')
_PAGE = Markup(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{}</title><style>{}</style></head>\n<body>\n{}\n</body></html>\n"
)


def page(title: str, body: Markup) -> str:
    """Writes a whole page around a body.

    Args:
        title: Title of the window, as plain text.
        body: Content of the page. What is not ``Markup`` is escaped, here and in all that has ``Markup`` format it.

    Returns:
        The page. Lone surrogates, which names and records may hold and no file can, are replaced.
    """
    return _PAGE.format(title, Markup(STYLE), body).encode("utf-8", "replace").decode()


def joined(parts: Iterable[str], between: Markup = _NOTHING) -> Markup:
    """Puts pieces of HTML one after the other. Those that are not ``Markup`` are escaped."""
    return between.join(parts)


def table(heads: Sequence[str], rows: Sequence[Markup], head: Markup = _HEAD) -> Markup:
    """Writes a table.

    Args:
        heads: What stands above the columns.
        rows: The ``tr`` elements.
        head: The element of a column's head, with a place for its words.
    """
    element = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>")
    return element.format(joined(map(head.format, heads)), joined(rows))
