"""One HTML page that needs nothing else: no network, no file beside it, light and dark."""

import html

from lightning_transfer.report.style import STYLE


def page(title: str, body: str) -> str:
    """Puts a body into a page.

    Args:
        title: Title of the window, as plain text.
        body: HTML.
    """
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{meta}<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'
