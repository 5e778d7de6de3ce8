"""Charts as SVG, drawn by hand: lines and points, rows of points, bars, histograms.

All take the width in pixels that they are drawn for, so that their text has its size on a telephone and on a screen.
Texts are anybody's, and escaped. Colours are classes that the page defines, for light and for dark.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from intraq_cli.reports.scale import Scale, number, round_step, spanning

LETTER = 6.6
"""About the width of a letter, in pixels."""
TOP, BOTTOM, RIGHT = 26, 40, 14
"""Margins: for the label of the y axis, for ticks and label of the x axis, and for half of the last tick."""
ROW, NAME = 22, 24
"""Heights of a row, and of a name below a point."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, with its unit."""

    label: str
    log: bool = False
    zero: bool = False
    tight: bool = False
    """It begins at the smallest value and ends at the largest, round or not."""
    room: bool = False
    """There is room for a name below the smallest value."""


@dataclass(frozen=True)
class Series:
    """Points ``(x, y)`` of one kind, in order; each may have a name beside it."""

    points: Sequence[tuple[float, float]]
    style: str = "s0"
    """``s0`` is what matters, ``s1`` to ``s3`` are others."""
    line: bool = True
    dots: bool = False
    names: Sequence[str] = ()


class Canvas:
    """An SVG in the making; y counts downwards."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        text = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>'
        self.parts.append(Markup(text).format(x1, y1, x2, y2, kind))

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A text whose base line is at y."""
        made = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>')
        self.parts.append(made.format(x, y, anchor, kind, text))

    def dot(self, x: float, y: float, style: str, title: str, radius: float = 3.5) -> None:
        """A point; ``title`` shows under the mouse."""
        made = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="dot {}"><title>{}</title></circle>')
        self.parts.append(made.format(x, y, radius, style, title))

    def bar(self, x: float, y: float, width: float, height: float, style: str, title: str = "") -> None:
        """A rectangle."""
        made = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="bar {}">')
        self.parts.append(made.format(x, y, max(width, 0.0), max(height, 0.0), style))
        self.parts.append(Markup("<title>{}</title></rect>").format(title))

    def path(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """A line through points."""
        made = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(Markup('<polyline points="{}" class="path {}"/>').format(made, style))

    def svg(self, label: str) -> Markup:
        """The picture; ``label`` is what it shows, for whoever cannot see it."""
        made = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>')
        return made.format(self.width, self.height, label, Markup("").join(self.parts))


def xy_chart(series: Sequence[Series], x: Axis, y: Axis, width: float, height: float = 260) -> Markup:
    """Lines and points over two axes."""
    canvas = Canvas(width, height)
    heights = [p[1] for one in series for p in one.points]
    ys = spanning(heights, height - BOTTOM, TOP, log=y.log, zero=y.zero)
    if y.room and ys.start - ys(min(heights)) < NAME:
        ys = replace(ys, low=ys.low - round_step((ys.high - ys.low) / 5))
    left = 12 + LETTER * max(len(number(tick)) for tick in ys.ticks())
    held = [p[0] for one in series for p in one.points]
    xs = spanning(held, left, width - RIGHT, log=x.log, zero=x.zero)
    if x.tight and min(held) < max(held):
        xs = Scale(min(held), max(held), left, width - RIGHT)
    _grid(canvas, xs, ys, x, y)
    for one in series:
        places = [(xs(a), ys(b)) for a, b in one.points]
        if one.line and len(places) > 1:
            canvas.path(places, one.style)
        if one.dots or len(places) == 1:
            for (a, b), point in zip(places, one.points, strict=True):
                canvas.dot(a, b, one.style, f"{x.label} {number(point[0])}, {y.label} {number(point[1])}")
        for (a, b), name in zip(places, one.names, strict=False):
            _beside(canvas, a, b + (NAME if one.line else 0), name)
    return canvas.svg(f"{y.label} over {x.label}")


def _grid(canvas: Canvas, xs: Scale, ys: Scale, x: Axis, y: Axis) -> None:
    for tick in ys.ticks(4):
        canvas.line(xs.start, ys(tick), xs.end, ys(tick), "grid")
        canvas.text(xs.start - 6, ys(tick) + 4, number(tick), "tick", "end")
    canvas.line(xs.start, ys.start, xs.end, ys.start, "axis")
    for tick in xs.ticks(max(2, int(xs.end - xs.start) // 90)):
        canvas.line(xs(tick), ys.start, xs(tick), ys.start + 4, "axis")
        canvas.text(xs(tick), ys.start + 17, number(tick), "tick", "middle")
    canvas.text(0, 12, y.label, "label")
    canvas.text(xs.end, canvas.height - 4, x.label, "label", "end")


def _beside(canvas: Canvas, x: float, y: float, name: str) -> None:
    """A name right of a point, or left of it where there is no room."""
    if not name:
        return
    room = x + 8 + LETTER * len(name) <= canvas.width
    canvas.text(x + 8 if room else x - 8, y - 7, name, "name", "start" if room else "end")


def row_chart(
    rows: Sequence[tuple[str, Sequence[float | None]]], x: Axis, width: float, *, bars: bool = False
) -> Markup:
    """A row for each name, with a point (or a bar from zero) for each of its values; None: there is none.

    Args:
        rows: name and values; the first value is what matters.
        x: axis of the values.
        width: in pixels.
        bars: draw bars, of the first value alone.
    """
    height = TOP + ROW * len(rows) + BOTTOM - TOP + 6
    canvas = Canvas(width, height)
    letters = int(min(max((len(name) for name, _ in rows), default=0), 0.42 * width / LETTER))
    left = 12 + LETTER * letters
    held = [value for _, values in rows for value in values if value is not None]
    xs = spanning(held, left, width - RIGHT, log=x.log, zero=x.zero or bars)
    bottom = height - BOTTOM
    for tick in xs.ticks(max(2, int(xs.end - xs.start) // 90)):
        canvas.line(xs(tick), 4, xs(tick), bottom, "grid")
        canvas.text(xs(tick), bottom + 17, number(tick), "tick", "middle")
    canvas.text(xs.end, height - 4, x.label, "label", "end")
    for k, (name, values) in enumerate(rows):
        y = 4 + ROW * (k + 0.5)
        canvas.text(left - 8, y + 4, shortened(name, letters), "tick", "end")
        shown = [(j, value) for j, value in enumerate(values) if value is not None]
        if bars:
            for _, value in shown[:1]:
                canvas.bar(left, y - 7, xs(value) - left, 14, f"s{min(k, 1)}", f"{name}: {number(value)}")
            continue
        if len(shown) > 1:
            ends = [xs(value) for _, value in shown]
            canvas.line(min(ends), y, max(ends), y, "link")
        for j, value in reversed(shown):
            canvas.dot(xs(value), y, f"s{j}", f"{name}: {number(value)}", 4.5)
    return canvas.svg(f"{x.label}, by row")


def histogram(
    counts: Sequence[int], ends: tuple[float, float], grid: tuple[float, float], label: str, width: float
) -> Markup:
    """Counts of bins of equal width between ``ends``, on a logarithmic scale, and where a grid of values ends.

    Args:
        counts: of each bin.
        ends: lowest value of the first bin, highest of the last.
        grid: lowest and highest value of the grid.
        label: what it shows, for whoever cannot see it.
        width: in pixels.
    """
    height, left = 150.0, 44.0
    canvas = Canvas(width, height)
    total = max(1, sum(counts))
    shares = [100 * count / total for count in counts]
    ys = Scale(min([0.01, *(share for share in shares if share > 0)]), 100.0, height - 26, 20, log=True)
    low, high = min(ends[0], grid[0]), max(ends[1], grid[1])
    xs = Scale(low, high if high > low else low + max(1.0, abs(low)), left, width - 8)
    canvas.text(0, 12, "% of values", "label")
    for tick in ys.ticks(3):
        canvas.line(left, ys(tick), xs.end, ys(tick), "grid")
        canvas.text(left - 6, ys(tick) + 4, number(tick), "tick", "end")
    edges = [ends[0] + (ends[1] - ends[0]) * k / len(counts) for k in range(len(counts) + 1)]
    for (a, b), share in zip(pairwise(edges), shares, strict=True):
        if share:
            inside = grid[0] <= (a + b) / 2 <= grid[1]
            canvas.bar(xs(a), ys(share), xs(b) - xs(a) - 0.5, ys.start - ys(share), "s0" if inside else "s1")
    canvas.line(left, ys.start, xs.end, ys.start, "axis")
    for value in grid:
        canvas.line(xs(value), 16, xs(value), ys.start, "mark")
    for tick in xs.ticks(max(2, int(width) // 90)):
        canvas.text(xs(tick), height - 8, number(tick), "tick", "middle")
    return canvas.svg(label)


def shortened(text: str, most: int) -> str:
    """``text``, or its two ends where it is longer."""
    if len(text) <= most:
        return text
    head = max(1, (most - 1) // 3)
    return f"{text[:head]}…{text[len(text) - max(0, most - 1 - head) :]}"
