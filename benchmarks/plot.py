"""The plot: one panel of horizontal bars for each scenario, as SVG."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .report import times
from .results import Metric, Outcome, Row


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a plot."""

    background: str
    text: str
    quiet: str
    service: str
    other: str


LIGHT = Theme("#ffffff", "#1f2328", "#59636e", "#0969da", "#c8d1da")
DARK = Theme("#0d1117", "#f0f6fc", "#9198a1", "#4493f8", "#3d444d")

WIDTH = 880
MARGIN = 20
GAP = 32
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
LABELS = 148
BARS = 146
HEAD = 76
TITLE = 44
ROW = 23
BAR = 15
SPACE = 26

LETTER = 6.4
"""About the width of a letter in pixels, at 12 pixels."""


def svg(outcomes: Sequence[Outcome], theme: Theme) -> str:
    """Return a picture of all outcomes with ``plotted``."""
    panels, height = [], [0.0, 0.0]
    for outcome in outcomes:
        if not outcome.plotted:
            continue
        column = height.index(min(height))
        x = MARGIN + column * (PANEL + GAP)
        panels += list(_panel(outcome, theme, x, HEAD + height[column]))
        height[column] += TITLE + ROW * len(outcome.rows) + SPACE
    total = HEAD + max(height)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total:.0f}" '
        f'viewBox="0 0 {WIDTH} {total:.0f}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>How the service compares with other servers</title>",
        f'<rect width="{WIDTH}" height="{total:.0f}" rx="8" fill="{theme.background}"/>',
        _text(MARGIN, 32, "Comparison with other servers", theme.text, size=18, bold=True),
        _text(
            MARGIN,
            53,
            "Medians, one core per server. × is how many times better this service is.",
            theme.quiet,
        ),
        *panels,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(outcome: Outcome, theme: Theme, x: float, y: float) -> Iterator[str]:
    metric = outcome.metric
    order = "more" if metric.more_is_better else "less"
    yield _text(x, y + 16, outcome.title, theme.text, size=14, bold=True)
    yield _text(x, y + 33, f"{metric.unit}, {order} is better", theme.quiet, size=11.5)
    most = max((row.median(metric) or 0 for row in outcome.rows), default=0)
    for number, row in enumerate(outcome.rows):
        yield from _bar(outcome, row, most, theme, x, y + TITLE + ROW * number)


def _bar(
    outcome: Outcome, row: Row, most: float, theme: Theme, x: float, y: float
) -> Iterator[str]:
    mine = row is outcome.rows[0]
    value = row.median(outcome.metric)
    middle = y + BAR / 2 + 4.2
    yield _text(x, middle, shortened(row.title, LABELS), theme.text, bold=mine)
    start = x + LABELS
    if value is None:
        yield _text(start, middle, "not measured", theme.quiet)
        return
    length = max(2.0, BARS * value / most) if most else 2.0
    colour = theme.service if mine else theme.other
    yield (
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" rx="2" '
        f'fill="{colour}"/>'
    )
    yield _text(start + length + 6, middle, rounded(value, outcome.metric), theme.text, bold=mine)
    if not mine:
        factor = times(outcome.factor(row))
        yield _text(x + PANEL, middle, factor, theme.quiet, anchor="end")


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    size: float = 12,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = ' text-anchor="end"' if anchor == "end" else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"{weight}{place}>'
        f"{escape(text)}</text>"
    )


def shortened(text: str, width: float) -> str:
    """Truncate a text to a width in pixels."""
    letters = int(width / LETTER)
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def rounded(value: float, metric: Metric) -> str:
    """Format a value in at most four digits."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.{0 if unit == 'k' else 2}f} {unit}"
    return metric.text(value)


def plots(outcomes: Sequence[Outcome]) -> Iterable[tuple[str, str]]:
    """Yield the file name and the content of each picture."""
    yield "benchmarks-light.svg", svg(outcomes, LIGHT)
    yield "benchmarks-dark.svg", svg(outcomes, DARK)
