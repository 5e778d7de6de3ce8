"""Draw charts as SVG, without a library: lines and points, rows of points, bars, histograms.

Every chart is drawn for a given width in pixels, so that its text has the right size on a phone and on a screen. Texts
are untrusted and are escaped. Colours are CSS classes that the page defines for its light and its dark theme.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from intraq_cli.reports.scale import Scale, number, round_step, spanning

LETTER = 6.6
"""Approximate width of a letter, in pixels."""
TOP, BOTTOM, RIGHT = 26, 40, 14
"""Margins: for the label of the y axis, for ticks and label of the x axis, and for half of the last tick label."""
ROW, NAME = 22, 24
"""Height of a row, and of a name below a point."""


@dataclass(frozen=True)
class Axis:
    """An axis; its label contains the unit."""

    label: str
    log: bool = False
    zero: bool = False
    tight: bool = False
    """Whether the axis begins at the smallest and ends at the largest value, even if they are not round."""
    room: bool = False
    """Whether to leave room for a name below the smallest value."""


@dataclass(frozen=True)
class Series:
    """A series of points ``(x, y)``, in order; each may have a name beside it."""

    points: Sequence[tuple[float, float]]
    style: str = "s0"
    """CSS class: ``s0`` for the main series, ``s1`` to ``s3`` for others."""
    line: bool = True
    dots: bool = False
    names: Sequence[str] = ()


class Canvas:
    """An SVG under construction; y points downwards."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        text = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>'
        self.parts.append(Markup(text).format(x1, y1, x2, y2, kind))

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Draw a text whose baseline is at ``y``."""
        made = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>')
        self.parts.append(made.format(x, y, anchor, kind, text))

    def dot(self, x: float, y: float, style: str, title: str, radius: float = 3.5) -> None:
        """Draw a point; ``title`` is its tooltip."""
        made = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="dot {}"><title>{}</title></circle>')
        self.parts.append(made.format(x, y, radius, style, title))

    def bar(self, x: float, y: float, width: float, height: float, style: str, title: str = "") -> None:
        """Draw a rectangle; ``title`` is its tooltip."""
        made = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="bar {}">')
        self.parts.append(made.format(x, y, max(width, 0.0), max(height, 0.0), style))
        self.parts.append(Markup("<title>{}</title></rect>").format(title))

    def path(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        made = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(Markup('<polyline points="{}" class="path {}"/>').format(made, style))

    def svg(self, label: str) -> Markup:
        """Return the SVG; ``label`` describes it for screen readers."""
        made = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>')
        return made.format(self.width, self.height, label, Markup("").join(self.parts))


def xy_chart(series: Sequence[Series], x: Axis, y: Axis, width: float, height: float = 260) -> Markup:
    """Draw lines and points over two axes."""
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
    """Write a name to the right of a point, or to the left if there is no room."""
    if not name:
        return
    room = x + 8 + LETTER * len(name) <= canvas.width
    canvas.text(x + 8 if room else x - 8, y - 7, name, "name", "start" if room else "end")


def row_chart(
    rows: Sequence[tuple[str, Sequence[float | None]]], x: Axis, width: float, *, bars: bool = False
) -> Markup:
    """Draw a row for each name, with a point (or a bar from zero) for each of its values that is not None.

    Args:
        rows: name and values of each row; the first value is the main one.
        x: axis of the values.
        width: in pixels.
        bars: draw a bar for the first value instead of points.
    """
    height = ROW * len(rows) + BOTTOM + 6
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
    """Draw the share of each bin on a logarithmic scale, and the two ends of a quantization grid.

    Args:
        counts: number of values in each bin; all bins have the same width.
        ends: lowest value of the first bin, highest value of the last.
        grid: lowest and highest value of the grid.
        label: description for screen readers.
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
    """Return ``text``, or only its beginning and end if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    head = max(1, (most - 1) // 3)
    return f"{text[:head]}…{text[len(text) - max(0, most - 1 - head) :]}"
