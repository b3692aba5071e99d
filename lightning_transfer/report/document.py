"""Writes a document of headings, paragraphs, tables and figures as Markdown and as one HTML page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lightning_transfer.report.page import joined, page, table


@dataclass(frozen=True)
class Heading:
    """A heading; the first one of a document is its title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, which may contain ``**bold**`` and `` `code` ``."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short paragraphs, which may contain the same markup."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table, whose first column holds names and is aligned left."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure in SVG.

    Args:
        file: Name of the file that the Markdown refers to.
        svg: The SVG element that the page contains.
        caption: Description of what the figure shows.
    """

    file: str
    svg: Markup
    caption: str


Block = Heading | Paragraph | Bullets | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Writes a document as Markdown, which refers to its figures as files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Writes a document as an HTML page that needs no other file."""
    return page(title, joined((_html(block) for block in blocks), Markup("\n")))


def escaped(text: str) -> str:
    """Escapes a text so that it is not read as Markdown."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]()#+-.!|<>~" else sign for sign in text.replace("\n", " "))


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(header, rows):
            rule = ["---", *["---:"] * (len(header) - 1)]
            return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
        case Figure(file, _, caption):
            return f"![{caption}]({file})"


def _html(block: Block) -> Markup:
    match block:
        case Heading(text, level):
            return Markup("<h{0}>{1}</h{0}>").format(level, _inline(text))
        case Paragraph(text):
            return Markup("<p>{}</p>").format(_inline(text))
        case Bullets(items):
            return Markup("<ul>{}</ul>").format(joined(Markup("<li>{}</li>").format(_inline(item)) for item in items))
        case Table(header, rows):
            lines = [Markup("<tr>{}</tr>\n").format(_row(*row)) for row in rows]
            return Markup('<div class="scroll">{}</div>').format(table([*map(_inline, header)], lines))
        case Figure(_, svg, caption):
            element = Markup('<figure class="wide">{}<figcaption>{}</figcaption></figure>')
            return element.format(svg, _inline(caption))


def _row(name: str, *cells: str) -> Markup:
    return Markup('<th scope="row">{}</th>').format(_inline(name)) + joined(
        Markup("<td>{}</td>").format(_inline(cell)) for cell in cells
    )


def _inline(text: str) -> Markup:
    """Escapes a text, and then marks what it has in bold and as code."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))
