"""Events as moving bars on a terminal, or as a plain line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from intraq_cli.commands.output import escaped, stderr
from intraq_cli.errors import one_line
from intraq_cli.events import Event, Noted, Report, StageDone, StageStarted, StepDone, Warned

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Yields what to report events to; messages are shown even when ``quiet``."""
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
        with Progress(*columns, console=stderr) as bars:
            yield _Bars(bars).report
    else:
        yield _Lines().report


def _messages_only(event: Event) -> None:
    match event:
        case Warned():
            stderr.print(f"[yellow]warning:[/] {escaped(one_line(event.message))}")
        case Noted():
            stderr.print(escaped(one_line(event.message)))


class _Rate:
    """Images per second since the stage began."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, images: int) -> str:
        if not images:
            return ""
        return f"{images / max(time.perf_counter() - self.started, 1e-9):.0f} img/s"


def _describe(event: StepDone, rate: str) -> str:
    terms = " ".join(f"{name} {value:.3g}" for name, value in event.values.items())
    return "  ".join(filter(None, (event.detail, rate, terms)))


class _Bars:
    def __init__(self, bars: "Progress") -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}
        self.rates: dict[str, _Rate] = {}

    def report(self, event: Event) -> None:
        match event:
            case StageStarted():
                self.rates[event.stage] = _Rate()
                self.tasks[event.stage] = self.bars.add_task(event.stage, total=event.steps, detail=event.detail)
            case StepDone():
                detail = _describe(event, self.rates[event.stage](event.images))
                self.bars.update(self.tasks[event.stage], completed=event.step, detail=detail)
            case StageDone():
                task = self.tasks[event.stage]
                total = next(t.total for t in self.bars.tasks if t.id == task)
                self.bars.update(task, completed=total)
            case Warned() | Noted():
                _messages_only(event)


class _Lines:
    def __init__(self) -> None:
        self.last = 0.0
        self.steps: dict[str, int] = {}
        self.rates: dict[str, _Rate] = {}

    def report(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case StageStarted():
                self.steps[event.stage], self.rates[event.stage] = event.steps, _Rate()
                self.last = now
                stderr.print(f"{event.stage}: {event.steps} steps, {event.detail}")
            case StepDone() if now - self.last >= PLAIN_EVERY:
                self.last = now
                rate = self.rates[event.stage]
                share = event.step / self.steps[event.stage]
                left = (time.perf_counter() - rate.started) * (1 / share - 1)
                text = _describe(event, rate(event.images))
                stderr.print(f"{event.stage}: {event.step}/{self.steps[event.stage]}  {left:.0f} s left  {text}")
            case StageDone():
                stderr.print(f"{event.stage}: done in {event.seconds:.1f} s")
            case Warned() | Noted():
                _messages_only(event)
