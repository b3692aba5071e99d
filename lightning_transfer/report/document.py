"""Writes a document of headings, paragraphs, tables and figures as Markdown and as one HTML page."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_transfer.report.page import page


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
    svg: str
    caption: str


Block = Heading | Paragraph | Bullets | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Writes a document as Markdown, which refers to its figures as files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Writes a document as an HTML page that needs no other file."""
    return page(title, "\n".join(_html(block) for block in blocks))


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


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
        case Table(header, rows):
            head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in header)
            body = "".join(f"<tr>{_row(*row)}</tr>\n" for row in rows)
            return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        case Figure(_, svg, caption):
            return f'<figure class="wide">{svg}<figcaption>{_inline(caption)}</figcaption></figure>'


def _row(name: str, *cells: str) -> str:
    return f'<th scope="row">{_inline(name)}</th>' + "".join(f"<td>{_inline(cell)}</td>" for cell in cells)


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
