"""The colours of pages and figures, on white and on a dark ground."""

from typing import Literal

Color = Literal[
    "ink", "muted", "grid", "paper", "frozen", "accent", "second", "good", "bad",
    "series-0", "series-1", "series-2", "series-3", "series-4", "series-5", "series-6", "series-7",
]  # fmt: skip

# Name -> colour on white, colour on dark. No two are the same on white: in an SVG file the light colour identifies
# its dark one.
COLORS: dict[Color, tuple[str, str]] = {
    "ink": ("#1f2328", "#e6e8eb"),
    "muted": ("#656d76", "#9aa2ab"),
    "grid": ("#dee2e6", "#3a4048"),
    "paper": ("#ffffff", "#16191d"),
    "frozen": ("#d6dadf", "#454c55"),
    "accent": ("#1f6feb", "#4d93ff"),
    "second": ("#d95f0e", "#ff9a52"),
    "good": ("#1a7f37", "#56d364"),
    "bad": ("#cf222e", "#ff7b72"),
    # Colour-blind readers can tell these apart too. Source: Okabe & Ito, 2008. Yellow and sky blue are darker on white,
    # where lines need a contrast of 3; on dark all are lighter, with white for black.
    "series-0": ("#0072b2", "#4ba3e3"),
    "series-1": ("#d55e00", "#ff8c42"),
    "series-2": ("#009e73", "#2fcf9f"),
    "series-3": ("#cc79a7", "#f0a3cf"),
    "series-4": ("#000000", "#ffffff"),
    "series-5": ("#b87900", "#f2c14e"),
    "series-6": ("#3a98d4", "#9fdcff"),
    "series-7": ("#666666", "#b0b0b0"),
}
SERIES: tuple[Color, ...] = tuple(name for name in COLORS if name.startswith("series-"))


def series(number: int) -> Color:
    """Returns the colour of a series by its number; after the last colour, the first follows again."""
    return SERIES[number % len(SERIES)]


def variables() -> str:
    """Writes the colours as CSS variables for a page."""
    light, dark = ("".join(f"--{name}:{shades[shade]};" for name, shades in COLORS.items()) for shade in (0, 1))
    return f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def with_own_colors(svg: str) -> str:
    """Turns a figure with a page's CSS variables into the content of an SVG file, with a background of its own.

    Programs without dark mode find the colours for white, as plain attributes.
    """
    rules, svg = "", str(svg)
    for name, (light, dark) in COLORS.items():
        svg = svg.replace(f"var(--{name})", light)
        rules += f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}'
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    start, end = svg.split(">", 1)
    ground = f'<rect width="100%" height="100%" fill="{COLORS["paper"][0]}"/>'
    return f'{start} xmlns="http://www.w3.org/2000/svg">{style}{ground}{end}\n'
