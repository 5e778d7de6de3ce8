"""Positions of marks in charts, compared with pixel coordinates worked out by hand."""

import re
from xml.etree import ElementTree

import pytest

from intraq_cli.reports.charts import BOTTOM, LETTER, RIGHT, ROW, TOP, Axis, Series, histogram, row_chart, shortened
from intraq_cli.reports.charts import xy_chart as draw


def parts(svg, tag, kind=""):
    """Attributes of elements, in their order; the SVG is well-formed XML."""
    return [one.attrib for one in ElementTree.fromstring(str(svg)).iter(tag) if kind in one.attrib.get("class", "")]


def texts(svg):
    return [one.text for one in ElementTree.fromstring(str(svg)).iter("text")]


def test_line_chart_places_points_at_their_values():
    svg = draw([Series([(0, 0), (5, 50), (10, 100)], dots=True)], Axis("step"), Axis("loss, nats"), 400, 260)
    left, right, bottom = 12 + 3 * LETTER, 400 - RIGHT, 260 - BOTTOM  # "100" is the widest tick
    expected = [(left, bottom), ((left + right) / 2, (bottom + TOP) / 2), (right, TOP)]
    assert [(float(dot["cx"]), float(dot["cy"])) for dot in parts(svg, "circle")] == [
        pytest.approx(place, abs=0.06) for place in expected
    ]
    (line,) = parts(svg, "polyline")
    assert [float(x) for x in re.split("[ ,]", line["points"])] == pytest.approx(
        [x for place in expected for x in place], abs=0.06
    )
    assert {"step", "loss, nats", "0", "50", "100"} <= set(texts(svg))  # axes are named, with their units


def test_logarithmic_axis_spaces_decades_equally():
    svg = draw([Series([(1, 0.01), (2, 0.1), (3, 1)], dots=True)], Axis("step"), Axis("loss", log=True), 400)
    a, b, c = (float(dot["cy"]) for dot in parts(svg, "circle"))
    assert a - b == pytest.approx(b - c, abs=0.11)
    assert (a, c) == (260 - BOTTOM, TOP)


def test_tight_axis_ends_at_the_last_value():
    svg = draw([Series([(1, 1), (19, 2)], dots=True)], Axis("step", tight=True), Axis("loss"), 400)
    first, last = (float(dot["cx"]) for dot in parts(svg, "circle"))
    assert last == 400 - RIGHT
    assert first == pytest.approx(12 + 3 * LETTER, abs=0.06)


def test_row_chart_has_a_point_for_each_value():
    svg = row_chart([("conv", [1.0, None]), ("fc", [4.0, 2.0])], Axis("divergence, nats", zero=True), 300)
    dots = sorted((float(dot["cy"]), float(dot["cx"]), dot["class"]) for dot in parts(svg, "circle"))
    left, right = 12 + 4 * LETTER, 300 - RIGHT
    place = lambda value: left + (right - left) * value / 4  # noqa: E731
    assert dots == [
        (4 + ROW / 2, pytest.approx(place(1), abs=0.06), "dot s0"),
        (4 + ROW * 1.5, pytest.approx(place(2), abs=0.06), "dot s1"),
        (4 + ROW * 1.5, pytest.approx(place(4), abs=0.06), "dot s0"),
    ]
    (link,) = parts(svg, "line", "link")
    assert (float(link["x1"]), float(link["x2"])) == pytest.approx((place(2), place(4)), abs=0.06)


def test_bars_start_at_zero_with_lengths_proportional_to_their_values():
    svg = row_chart([("quantized", [2.0]), ("float32", [4.0])], Axis("ms"), 300, bars=True)
    first, second = parts(svg, "rect")
    assert first["x"] == second["x"]
    assert float(second["width"]) == pytest.approx(2 * float(first["width"]), abs=0.2)


def test_histogram_shows_shares_the_limits_of_the_grid_and_clipped_values():
    svg = histogram([100, 0, 10, 890], (0.0, 8.0), (0.0, 6.0), "values at conv", 400)
    bars, marks = parts(svg, "rect"), parts(svg, "line", "mark")
    assert [bar["class"] for bar in bars] == ["bar s0", "bar s0", "bar s1"]  # the last lies beyond the grid
    width = 400 - 8 - 44
    assert [float(bar["x"]) for bar in bars] == pytest.approx([44, 44 + width / 2, 44 + 3 * width / 4], abs=0.06)
    assert [float(mark["x1"]) for mark in marks] == pytest.approx([44, 44 + 3 * width / 4], abs=0.06)
    decade = (150 - 26 - 20) / 4  # 0.01 % to 100 %
    assert float(bars[0]["height"]) == pytest.approx(3 * decade, abs=0.06)  # 10 %
    assert float(bars[1]["height"]) == pytest.approx(2 * decade, abs=0.06)  # 1 %


def test_names_in_charts_are_escaped_and_shortened():
    name = "<script>alert(1)</script>&\"'"
    for svg in (
        row_chart([(name, [1.0])], Axis(name), 900),
        draw([Series([(1, 1), (2, 2)], names=[name, ""])], Axis(name), Axis(name), 900),
        histogram([1], (0, 1), (0, 1), name, 400),
    ):
        assert "<script" not in svg
        assert ElementTree.fromstring(str(svg)) is not None
    assert shortened("stages.2.1.bn2", 9) == "st….1.bn2"
    assert shortened("short", 9) == "short"
