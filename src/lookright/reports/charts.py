"""Charts as inline SVG; colours come from the page's style sheet, so they follow light and dark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lookright.reports.markup import Html, join, tag

WIDTH = 360
"""Drawing units of every chart's width; it scales with its card."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Whisker:
    """A value with its interval, drawn in one row; `series` names its colour."""

    value: float
    low: float
    high: float
    series: str


def histogram(series: Mapping[str, Sequence[int]], thresholds: Mapping[float, str]) -> Html:
    """Stacked bars over [0, 1]: counts per bin for each class of bars, and labelled threshold lines."""
    left, right, top, bottom, height = 34, 8, 30, 24, 190
    num_bins = len(next(iter(series.values())))
    totals = [sum(counts[index] for counts in series.values()) for index in range(num_bins)]
    highest = nice_ceiling(max([*totals, 1]))
    span, tall = WIDTH - left - right, height - top - bottom

    def across(share: float) -> float:
        return left + share * span

    def up(count: float) -> float:
        return height - bottom - count / highest * tall

    marks: list[Html] = []
    for count in (0, highest // 2, highest) if highest > 1 else (0, highest):
        marks.append(tag("line", x1=left, x2=WIDTH - right, y1=up(count), y2=up(count), class_="gridline"))
        marks.append(tag("text", f"{count:,}", x=left - 6, y=up(count) + 4, text_anchor="end"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        marks.append(tag("text", f"{share:g}", x=across(share), y=height - 8, text_anchor="middle"))
    marks += _bars(series, across, up)
    for row, (limit, label) in enumerate(sorted(thresholds.items())):
        # Neighbouring labels stand at different heights so that they cannot overlap.
        y = 10 + 11 * (row % 2)
        marks.append(tag("line", x1=across(limit), x2=across(limit), y1=y + 3, y2=height - bottom, class_="threshold"))
        marks.append(tag("text", label, x=across(limit), y=y, text_anchor="middle", class_="threshold-label"))
    return _svg(height, marks, "Histogram of attention ratios")


def interval_rows(rows: Mapping[str, Sequence[Whisker]], *, unit: str = "%", highest: float = 100.0) -> Html:
    """One row a label: a dot with its interval for each series, on a scale from 0 to `highest`."""
    left, right, top, bottom, step = 122, 38, 8, 24, 34
    height = top + bottom + step * len(rows)
    span = WIDTH - left - right
    marks: list[Html] = []
    for quarter in range(5):
        x = left + span * quarter / 4
        marks.append(tag("line", x1=x, x2=x, y1=top, y2=height - bottom, class_="gridline"))
        marks.append(tag("text", f"{highest * quarter / 4:g}{unit}", x=x, y=height - 8, text_anchor="middle"))
    for index, (label, whiskers) in enumerate(rows.items()):
        middle = top + step * (index + 0.5)
        marks.append(tag("text", label, x=left - 10, y=middle + 4, text_anchor="end", class_="strong"))
        for place, whisker in enumerate(whiskers):
            y = middle + (place - (len(whiskers) - 1) / 2) * 11
            low, value, high = (left + span * min(max(at / highest, 0), 1) for at in _ends(whisker))
            series = f"dot-{whisker.series}"
            marks.append(tag("line", x1=low, x2=high, y1=y, y2=y, stroke_width=2, class_=series))
            marks.append(tag("circle", cx=value, cy=y, r=4, class_=series))
            shown = f"{whisker.value:.1f}" if highest > 1 else f"{whisker.value:.2f}"
            marks.append(tag("text", shown, x=WIDTH - right + 8, y=y + 4))
    return _svg(height, marks, "Values with 95 % intervals")


def chart(title: str, drawing: Html) -> Html:
    """A drawing under its title."""
    return tag("div", tag("h3", title), drawing, class_="chart")


def legend(entries: Mapping[str, str]) -> Html:
    """Colour keys: class name to what it means."""
    return tag(
        "div", *(tag("span", tag("i", "", class_=name), text) for name, text in entries.items()), class_="legend"
    )


def nice_ceiling(value: int) -> int:
    """The smallest of 1, 2, 4, 5, 10, 20, 40, 50, ... that is no less."""
    power = 1
    while True:
        for factor in (1, 2, 4, 5):
            if factor * power >= value:
                return factor * power
        power *= 10


def _bars(
    series: Mapping[str, Sequence[int]], across: Callable[[float], float], up: Callable[[float], float]
) -> list[Html]:
    marks = []
    num_bins = len(next(iter(series.values())))
    for index in range(num_bins):
        below = 0
        for name, counts in series.items():
            if counts[index]:
                x, width = (
                    across(index / num_bins) + 0.75,
                    across((index + 1) / num_bins) - across(index / num_bins) - 1.5,
                )
                y, foot = up(below + counts[index]), up(below)
                title = tag(
                    "title", f"{index / num_bins:.2f} to {(index + 1) / num_bins:.2f}: {counts[index]:,} {name}"
                )
                marks.append(tag("rect", title, x=x, y=y, width=width, height=foot - y, class_=name))
                below += counts[index]
    return marks


def _ends(whisker: Whisker) -> tuple[float, float, float]:
    return whisker.low, whisker.value, whisker.high


def _svg(height: float, marks: Sequence[Html], label: str) -> Html:
    return tag("svg", join(marks), view_box=f"0 0 {WIDTH} {height}", role="img", aria_label=label)
