import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intraq_cli.reports.scale import Scale, number, spanning


def test_scale_maps_values_to_pixels():
    linear = Scale(0, 10, 100, 200)
    assert [linear(value) for value in (0, 2.5, 10)] == [100, 125, 200]
    assert linear(-5) == 100  # values outside are clamped
    assert linear(11) == 200
    downwards = Scale(0.01, 100, 240, 20, log=True)
    assert [downwards(value) for value in (0.01, 1, 100)] == pytest.approx([240, 130, 20])
    assert downwards(0) == pytest.approx(240)


def test_limits_and_ticks_of_a_scale_are_round_numbers():
    scale = spanning([3, 97], 0, 100)
    assert (scale.low, scale.high) == (0, 100)
    assert scale.ticks() == [0, 20, 40, 60, 80, 100]
    scale = spanning([0.0123, 0.0345], 0, 100)
    assert (scale.low, scale.high) == pytest.approx((0.01, 0.035))
    assert spanning([3, 97], 0, 1, zero=True).low == 0
    assert (spanning([15.3, 26.2], 0, 1).low, spanning([15.3, 26.2], 0, 1).high) == (15, 30)
    decades = spanning([0.004, 20], 0, 100, log=True)
    assert (decades.low, decades.high) == pytest.approx((0.001, 100))
    assert decades.ticks() == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])


@given(
    st.lists(st.floats(-1e9, 1e9, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_scale_keeps_the_order_of_values_and_ticks_on_the_axis(values, log, zero):
    scale = spanning(values, 10, 110, log=log, zero=zero)
    assert scale.low < scale.high
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    for value in values:
        if not scale.log:
            slack = 1e-6 * (scale.high - scale.low)
            assert scale.low - slack <= value <= scale.high + slack
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(10 - 1e-3 <= scale(tick) <= 110 + 1e-3 for tick in ticks)
    assert all(math.isfinite(place) for place in places)


def test_numbers_are_formatted_briefly():
    assert [number(x) for x in (0, 0.3, 12.5, 1234.5, 1e-7, 0.00012)] == [
        "0",
        "0.3",
        "12.5",
        "1,234",
        "1e-7",
        "0.00012",
    ]
    assert number(math.nan) == "-"
