"""The live line of the current stage, with as many parts as the terminal has room for."""

import time
from collections import deque
from collections.abc import Sequence

from rich.cells import cell_len

from intraq_cli.events import StageStarted, StepDone
from intraq_cli.words import duration, one_line

RECENT = 6
"""Number of last reported steps from which the time left is estimated."""
CURVE = 20
"""Values in a loss curve; half as many on lines below ``WIDE``. Lines of ``WITH_BAR`` or more always have a bar."""
WIDE, WITH_BAR = 72, 56
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
FULL, EMPTY, ASCII_FULL, ASCII_EMPTY = "━", "╌", "#", "."
WIDEST_BAR, NARROWEST_BAR = 24, 6


def sparkline(values: Sequence[float], marks: str = BLOCKS) -> str:
    """Draw a curve one line high, scaled to the smallest and largest value; non-finite values are question marks."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((value - low) * scale)] if abs(value) < float("inf") else "?" for value in values)


class Pace:
    """The speed of a stage over its last reported steps; steps before the first may be from an interrupted run."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.recent: deque[tuple[float, StepDone]] = deque(maxlen=RECENT)
        self.rate = ""
        self.left: float | None = None

    def note(self, event: StepDone) -> None:
        """Update images per second and seconds left, both of which need at least two reported steps."""
        now = time.perf_counter()
        self.recent.append((now, event))
        started, first = self.recent[0]
        if event.step <= first.step:
            return
        seconds = max(now - started, 1e-9)
        self.rate = f"{(event.images - first.images) / seconds:.0f} img/s" if event.images else ""
        self.left = seconds * (self.steps - event.step) / (event.step - first.step)

    def left_now(self) -> float | None:
        """Return the seconds left, minus the time since the last step."""
        if self.left is None:
            return None
        return max(0.0, self.left - (time.perf_counter() - self.recent[-1][0]))


class Stage:
    """A stage, as shown on a terminal."""

    def __init__(self, started: StageStarted, pace: Pace) -> None:
        self.name, self.steps, self.detail, self.pace = started.stage, started.steps, started.detail, pace
        self.step = 0
        self.losses: deque[float] = deque(maxlen=CURVE)

    def note(self, event: StepDone) -> None:
        """Store the data of a step."""
        self.step, self.detail = event.step, event.detail or self.detail
        if "total" in event.values:
            self.losses.append(event.values["total"])

    def line(self, width: int, unicode: bool = True) -> str:
        """Return the live line in at most ``width`` cells; the least important parts are dropped first."""
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
        """Return the line that remains on the screen when the stage is finished."""
        return "  ".join([f"{self.name}: done in {duration(seconds)}", *self._losses(unicode, CURVE)])[:width]

    def _parts(self, unicode: bool, curve: int) -> list[tuple[int, str]]:
        """Return texts from left to right, each with its rank; the highest rank is dropped first."""
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
