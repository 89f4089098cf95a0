"""Charts as inline SVG: marks in drawing units; colours come from the page's style sheet, for light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WIDTH = 360
"""Drawing units of every chart's width; it scales with its card."""
MOST_POINTS = 150
"""Points of a drawn curve; more become the means of neighbours."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Mark:
    """One SVG element. `text` is what a text says, and of any other shape what a pointer over it shows."""

    shape: str
    text: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, kw_only=True)
class Drawing:
    """A chart's title, height and marks; `label` says it to those who do not see it."""

    title: str
    label: str
    height: float
    marks: list[Mark]
    width: float = WIDTH


@dataclass(slots=True, frozen=True, kw_only=True)
class IntervalMark:
    """A value with its interval, drawn in one row; `series` numbers its colour."""

    value: float
    low: float
    high: float
    series: int


@dataclass(slots=True, frozen=True, kw_only=True)
class Curve:
    """Points (x, y) from left to right. `kind`: `line`, `dots` (measured now and then) or `even` (what compares)."""

    name: str
    points: Sequence[tuple[float, float]]
    series: int
    kind: str = "line"


def histogram(title: str, series: Mapping[str, Sequence[int]], thresholds: Mapping[float, str]) -> Drawing:
    """Stacked bars over [0, 1]: counts per bin for each class of bars, and labelled threshold lines."""
    left, right, top, bottom, height = 34, 8, 30, 24, 190
    num_bins = len(next(iter(series.values())))
    totals = [sum(counts[index] for counts in series.values()) for index in range(num_bins)]
    highest = nice_ceiling(max([*totals, 1]))
    across, up = Scale(0, 1, left, WIDTH - right), Scale(0, highest, height - bottom, top)
    marks: list[Mark] = []
    for count in (0, highest // 2, highest) if highest > 1 else (0, highest):
        marks += _level(up.at(count), f"{count:,}", left, WIDTH - right)
    marks += [_text(f"{share:g}", across.at(share), height - 8, "middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    marks += _bars(series, across, up)
    for row, (limit, label) in enumerate(sorted(thresholds.items())):
        # neighbouring labels stand at different heights so that they cannot overlap
        y, x = 10 + 11 * (row % 2), across.at(limit)
        marks.append(_mark("line", x1=x, x2=x, y1=y + 3, y2=height - bottom, class_="threshold"))
        marks.append(_text(label, x, y, "middle", "threshold-label"))
    return Drawing(title=title, label=f"Histogram of attention ratios, {title}", height=height, marks=marks)


def interval_rows(
    title: str, rows: Mapping[str, Sequence[IntervalMark]], *, unit: str = "%", highest: float = 100.0
) -> Drawing:
    """One row a label: a dot with its interval for each series, on a scale from 0 to `highest`."""
    left, right, top, bottom, apart = 122, 38, 8, 24, 11
    widest = max((len(whiskers) for whiskers in rows.values()), default=1)
    step = 12 + apart * widest
    height = top + bottom + step * len(rows)
    across = Scale(0, highest, left, WIDTH - right)
    marks: list[Mark] = []
    for quarter in range(5):
        value = highest * quarter / 4
        x = across.at(value)
        marks.append(_mark("line", x1=x, x2=x, y1=top, y2=height - bottom, class_="gridline"))
        marks.append(_text(f"{value:g}{unit}", x, height - 8, "middle"))
    for index, (label, whiskers) in enumerate(rows.items()):
        middle = top + step * (index + 0.5)
        marks.append(_text(label, left - 10, middle + 4, "end", "strong"))
        for place, whisker in enumerate(whiskers):
            y = middle + (place - (len(whiskers) - 1) / 2) * apart
            low, value, high = (
                across.at(min(max(end, 0), highest)) for end in (whisker.low, whisker.value, whisker.high)
            )
            marks.append(_mark("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{whisker.series}"))
            marks.append(_mark("circle", cx=value, cy=y, r=3.5, class_=f"dot s{whisker.series}"))
            shown = f"{whisker.value:.1f}" if highest > 1 else f"{whisker.value:.2f}"
            marks.append(_text(shown, WIDTH - right + 8, y + 4))
    return Drawing(title=title, label=f"{title} with 95 % intervals", height=height, marks=marks)


def curves(title: str, lines: Sequence[Curve], last: float = 0.0, x_label: str = "step") -> Drawing | None:
    """Curves over steps on one scale, from 0 to the last of all points or `last`; None where there is no point."""
    left, right, top, bottom, height = 54, 10, 8, 34, 200
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    last, ys = max(last, *(x for x, _ in points)), [y for _, y in points]
    ticks = nice_ticks(min(ys), max(ys))
    across, up = Scale(0, last, left, WIDTH - right), Scale(ticks[0], ticks[-1], height - bottom, top)
    marks = [mark for tick in ticks for mark in _level(up.at(tick), f"{tick:g}", left, WIDTH - right)]
    marks.append(_text("0", left, height - bottom + 14, "middle"))
    marks.append(_text(f"{last:,.0f}", WIDTH - right, height - bottom + 14, "end"))
    marks.append(_text(x_label, (left + WIDTH - right) / 2, height - 6, "middle"))
    for line in lines:
        places = [(across.at(x), up.at(y)) for x, y in thinned(line.points)]
        if line.kind == "even" and len(places) == 1:
            places = [(x, places[0][1]) for x in (left, WIDTH - right)]
        if line.kind != "dots":
            joined = " ".join(f"{x:.5g},{y:.5g}" for x, y in places)
            marks.append(_mark("polyline", line.name, points=joined, class_=f"curve {line.kind} s{line.series}"))
        if line.kind == "dots" or len(places) == 1:
            marks += [_mark("circle", line.name, cx=x, cy=y, r=3.5, class_=f"dot s{line.series}") for x, y in places]
    return Drawing(title=title, label=f"{title} over {x_label}s", height=height, marks=marks)


def grid(title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]) -> Drawing:
    """A cell for each row and column, the fuller the larger its value; None is an empty one."""
    left, top, bottom, tall = 84, 8, 24, 34
    wide, height = (WIDTH - left - 8) / len(columns), top + bottom + tall * len(rows)
    known = [value for line in values for value in line if value is not None]
    shade = Scale(min(known, default=0.0), max(known, default=0.0), 0.08, 0.7)
    marks = [_text(name, left + wide * (place + 0.5), height - 8, "middle") for place, name in enumerate(columns)]
    for number, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = top + tall * number
        marks.append(_text(name, left - 8, y + tall / 2 + 4, "end"))
        for place, value in enumerate(line):
            x, size = left + wide * place, {"width": wide - 2, "height": tall - 2}
            if value is not None:
                told = f"{name}, {columns[place]}: {value:.6g}"
                marks.append(_mark("rect", told, x=x, y=y, **size, fill_opacity=shade.at(value), class_="cell"))
            shown = "-" if value is None else f"{value:.4g}"
            marks.append(_text(shown, x + wide / 2, y + tall / 2 + 4, "middle", "strong"))
    return Drawing(title=title, label=f"{title}, as a table of colours", height=height, marks=marks)


@dataclass(slots=True, frozen=True)
class Scale:
    """From values in [`low`, `high`] to drawing units in [`start`, `stop`]; of equal ends all lies in the middle."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.stop - self.start)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: means over neighbours, equally many each but for the last."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def nice_ceiling(value: int) -> int:
    """The smallest of 1, 2, 4, 5, 10, 20, 40, 50, ... that is no less."""
    power = 1
    while True:
        for factor in (1, 2, 4, 5):
            if factor * power >= value:
                return factor * power
        power *= 10


def nice_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, 3 to 6 of them, that enclose [low, high]."""
    extent = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(extent / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= extent / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    # digits beyond the step's own are rounding
    return [round(place * step, 12) for place in range(first, last + 1)]


def _bars(series: Mapping[str, Sequence[int]], across: Scale, up: Scale) -> list[Mark]:
    marks = []
    num_bins = len(next(iter(series.values())))
    for index in range(num_bins):
        below, low, high = 0, index / num_bins, (index + 1) / num_bins
        for name, counts in series.items():
            if counts[index]:
                x, stop = across.at(low) + 0.75, across.at(high) - 0.75
                y, foot = up.at(below + counts[index]), up.at(below)
                told = f"{low:.2f} to {high:.2f}: {counts[index]:,} {name}"
                marks.append(_mark("rect", told, x=x, y=y, width=stop - x, height=foot - y, class_=name))
                below += counts[index]
    return marks


def _level(y: float, label: str, left: float, stop: float) -> list[Mark]:
    """A horizontal line with its label at the left."""
    line = _mark("line", x1=left, x2=stop, y1=y, y2=y, class_="gridline")
    return [line, _text(label, left - 6, y + 4, "end")]


def _text(text: str, x: float, y: float, anchor: str = "start", kind: str | None = None) -> Mark:
    return _mark("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def _mark(shape: str, text: str | None = None, **attributes: str | float | None) -> Mark:
    """`class_` is `class`, other underscores are hyphens; None is left out."""
    shown = {
        key.rstrip("_").replace("_", "-"): f"{value:.6g}" if isinstance(value, int | float) else value
        for key, value in attributes.items()
        if value is not None
    }
    return Mark(shape=shape, text=text, attributes=shown)
