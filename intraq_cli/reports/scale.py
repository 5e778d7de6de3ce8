"""Scales of charts: from values to pixels, and the round values at an axis's ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEPS = (1.0, 2.0, 5.0, 10.0)
"""Round numbers are these times a power of ten."""


@dataclass(frozen=True)
class Scale:
    """A map from values ``low`` to ``high`` to pixels ``start`` to ``end``; values outside are clipped."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, self._within(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ticks(self, about: int = 5) -> list[float]:
        """Return approximately ``about`` round values from ``low`` to ``high``."""
        if self.log:
            return _powers(self.low, self.high, about)
        step = round_step((self.high - self.low) / about)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))


def spanning(values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """Return a scale that contains all values and has round ends.

    Args:
        values: finite values; a logarithmic scale clips those that are not positive.
        start: pixel of the low end.
        end: pixel of the high end.
        log: make the scale logarithmic if any value is positive.
        zero: include zero in a linear scale.
    """
    held = list(values)
    positive = [value for value in held if value > 0]
    if log and positive:
        first, last = math.floor(math.log10(min(positive)) + 1e-9), math.ceil(math.log10(max(positive)) - 1e-9)
        return Scale(10.0**first, 10.0 ** max(last, first + 1), start, end, log=True)
    held = [*held, *([0.0] if zero or not held else [])]
    low, high = min(held), max(held)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):  # only one value: equal room on both sides
        room = abs(high) / 2 or 0.5
        low, high = (low if zero and low == 0 else low - room), high + room
    step = round_step((high - low) / 5)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def _powers(low: float, high: float, about: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, round((last - first) / about))
    return [10.0**k for k in range(first, last + 1, every)]


def number(value: float) -> str:
    """Format a value with few digits: 0.001, 12.5, 1,200."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0e}".replace("e-0", "e-")
