"""One HTML page that needs nothing else: no network, no file beside it, light and dark."""

import html

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #656d76; --grid: #dee2e6; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --muted: #9aa2ab; --grid: #3a4048; --paper: #16191d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--muted); font-size: 0.9rem; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """Puts a body into a page.

    Args:
        title: Title of the window, as plain text.
        body: HTML.
        style: CSS beyond what all pages share.
    """
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{meta}<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'
