"""Writes an HTML page that needs no network and no other file, and has light and dark colours."""

import html

from lightning_transfer.report.style import STYLE


def page(title: str, body: str) -> str:
    """Writes a whole page around a body.

    Args:
        title: Title of the window, as plain text.
        body: Content of the page, as HTML.
    """
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{meta}<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'
