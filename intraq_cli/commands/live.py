"""The line of a stage that is at work: as much of it as the terminal has room for."""

import time
from collections import deque
from collections.abc import Sequence

from rich.cells import cell_len

from intraq_cli.events import StageStarted, StepDone
from intraq_cli.words import duration, one_line

RECENT = 6
"""Reported steps by which the time left is told, the last ones."""
CURVE = 20
"""Values in a curve of losses; half as many on a line that is not ``WIDE``; a bar is always on one of ``WITH_BAR``."""
WIDE, WITH_BAR = 72, 56
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
FULL, EMPTY, ASCII_FULL, ASCII_EMPTY = "━", "╌", "#", "."
WIDEST_BAR, NARROWEST_BAR = 24, 6


def sparkline(values: Sequence[float], marks: str = BLOCKS) -> str:
    """A curve one line high, from the smallest of the values to the largest; what is not finite is a question mark."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((value - low) * scale)] if abs(value) < float("inf") else "?" for value in values)


class Pace:
    """How fast a stage goes on, by its last steps; those before the first that is told of may be an earlier run's."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.recent: deque[tuple[float, StepDone]] = deque(maxlen=RECENT)
        self.rate = ""
        self.left: float | None = None

    def note(self, event: StepDone) -> None:
        """Set images per second and the seconds left, neither until there is something to tell them by."""
        now = time.perf_counter()
        self.recent.append((now, event))
        started, first = self.recent[0]
        if event.step <= first.step:
            return
        seconds = max(now - started, 1e-9)
        self.rate = f"{(event.images - first.images) / seconds:.0f} img/s" if event.images else ""
        self.left = seconds * (self.steps - event.step) / (event.step - first.step)

    def left_now(self) -> float | None:
        """Seconds left, counted on since the last step."""
        if self.left is None:
            return None
        return max(0.0, self.left - (time.perf_counter() - self.recent[-1][0]))


class Stage:
    """A stage as a terminal shows it."""

    def __init__(self, started: StageStarted, pace: Pace) -> None:
        self.name, self.steps, self.detail, self.pace = started.stage, started.steps, started.detail, pace
        self.step = 0
        self.losses: deque[float] = deque(maxlen=CURVE)

    def note(self, event: StepDone) -> None:
        """Take down what a step tells."""
        self.step, self.detail = event.step, event.detail or self.detail
        if "total" in event.values:
            self.losses.append(event.values["total"])

    def line(self, width: int, unicode: bool = True) -> str:
        """What is going on, in at most ``width`` cells; the least important parts go first."""
        parts = self._parts(unicode, CURVE if width >= WIDE else CURVE // 2)
        most = width - NARROWEST_BAR - 2 if width >= WITH_BAR else width
        while len(parts) > 1 and sum(cell_len(text) for _, text in parts) + 2 * (len(parts) - 1) > most:
            parts.remove(max(parts))
        text = "  ".join(text for _, text in parts)
        room = width - cell_len(text) - 2
        if self.steps and room >= NARROWEST_BAR:
            size = min(room, WIDEST_BAR)
            done = min(size, size * self.step // self.steps)
            full, empty = (FULL, EMPTY) if unicode else (ASCII_FULL, ASCII_EMPTY)
            name, _, rest = text.partition("  ")
            text = f"{name}  {full * done}{empty * (size - done)}  {rest.lstrip()}"
        return text[:width]

    def end(self, seconds: float, width: int, unicode: bool = True) -> str:
        """What remains on the screen when it is over."""
        return "  ".join([f"{self.name}: done in {duration(seconds)}", *self._losses(unicode, CURVE)])[:width]

    def _parts(self, unicode: bool, curve: int) -> list[tuple[int, str]]:
        """Texts from left to right, each with its place among those that go first (the highest)."""
        left = self.pace.left_now()
        loss = [*self._losses(unicode, curve), "", ""]
        found = [
            (0, self.name),
            (1, f"{self.step}/{self.steps}" if self.steps > 1 else ""),
            (2, "" if left is None else f"{duration(left)} left"),
            (4, loss[0]),
            (3, loss[1]),
            (5, one_line(self.detail)),
            (6, self.pace.rate),
        ]
        return [(rank, text) for rank, text in found if text]

    def _losses(self, unicode: bool, curve: int) -> list[str]:
        if not self.losses:
            return []
        return [
            f"loss {self.losses[-1]:.3g}",
            sparkline(list(self.losses)[-curve:], BLOCKS if unicode else ASCII_BLOCKS),
        ]
