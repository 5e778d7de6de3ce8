"""Events as moving bars on a terminal, or as a plain line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from intraq_cli.commands.printing import duration, escaped, print_hint, stderr
from intraq_cli.errors import one_line
from intraq_cli.events import Event, Noted, Report, StageDone, StageStarted, StepDone, Warned

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""
SPEED_BY = 3600.0
"""Last seconds by which a bar tells the time left: a large network's steps take minutes."""
LONG = 3600.0
"""Seconds of a stage from which on a faster recipe is named."""


@contextmanager
def progress(quiet: bool, recipe: str = "") -> Iterator[Report]:
    """Yields what to report events to; messages are shown even when ``quiet``.

    If a stage of the default ``recipe`` will take over an hour, the faster one is named, once.
    """
    paces = _Paces(recipe)
    if quiet:
        yield _messages_only
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=stderr, speed_estimate_period=SPEED_BY) as bars:
            yield _Bars(bars, paces).report
    else:
        yield _Lines(paces).report


def _messages_only(event: Event) -> None:
    match event:
        case Warned():
            stderr.print(f"[yellow]warning:[/] {escaped(one_line(event.message))}")
        case Noted():
            stderr.print(escaped(one_line(event.message)))


class _Pace:
    """How fast a stage goes on, by the steps since the first that is told of: those before may be an earlier run's."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.first: tuple[float, StepDone] | None = None
        self.rate = ""
        self.left: float | None = None

    def note(self, event: StepDone) -> None:
        """Set images per second and the seconds left, neither until there is something to tell them by."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now, event
            return
        started, first = self.first
        seconds = max(now - started, 1e-9)
        self.rate = f"{(event.images - first.images) / seconds:.0f} img/s" if event.images else ""
        if event.step > first.step:
            self.left = seconds * (self.steps - event.step) / (event.step - first.step)


class _Paces:
    """That of every stage; if one of the default recipe will take long, a faster recipe is named, once."""

    def __init__(self, recipe: str) -> None:
        self.stages: dict[str, _Pace] = {}
        self.hint = recipe == "default"

    def start(self, event: StageStarted) -> None:
        self.stages[event.stage] = _Pace(event.steps)

    def note(self, event: StepDone) -> _Pace:
        pace = self.stages[event.stage]
        pace.note(event)
        if self.hint and pace.left is not None and pace.left > LONG:
            self.hint = False
            print_hint(
                f"hint: {duration(pace.left)} are left of this stage; --recipe fast takes about an eighth of the time"
            )
        return pace


def _describe(event: StepDone, rate: str) -> str:
    terms = " ".join(f"{name} {value:.3g}" for name, value in event.values.items())
    return "  ".join(filter(None, (event.detail, rate, terms)))


class _Bars:
    def __init__(self, bars: "Progress", paces: _Paces) -> None:
        self.bars = bars
        self.paces = paces
        self.tasks: dict[str, TaskID] = {}

    def report(self, event: Event) -> None:
        match event:
            case StageStarted():
                self.paces.start(event)
                self.tasks[event.stage] = self.bars.add_task(event.stage, total=event.steps, detail=event.detail)
            case StepDone():
                detail = _describe(event, self.paces.note(event).rate)
                self.bars.update(self.tasks[event.stage], completed=event.step, detail=detail)
            case StageDone():
                task = self.tasks[event.stage]
                total = next(t.total for t in self.bars.tasks if t.id == task)
                self.bars.update(task, completed=total)
            case Warned() | Noted():
                _messages_only(event)


class _Lines:
    def __init__(self, paces: _Paces) -> None:
        self.paces = paces
        self.last = 0.0

    def report(self, event: Event) -> None:
        now = time.perf_counter()
        match event:
            case StageStarted():
                self.paces.start(event)
                self.last = now
                stderr.print(f"{event.stage}: {event.steps} steps, {event.detail}")
            case StepDone():
                pace = self.paces.note(event)
                if now - self.last >= PLAIN_EVERY:
                    self.last = now
                    left = "" if pace.left is None else f"{duration(pace.left)} left  "
                    stderr.print(f"{event.stage}: {event.step}/{pace.steps}  {left}{_describe(event, pace.rate)}")
            case StageDone():
                stderr.print(f"{event.stage}: done in {duration(event.seconds)}")
            case Warned() | Noted():
                _messages_only(event)
