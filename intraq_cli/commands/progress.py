"""Show events as a live line on a terminal, or as a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.markup import escape

from intraq_cli.commands.interruption import ending_if_interrupted
from intraq_cli.commands.live import Pace, Stage
from intraq_cli.commands.printing import print_hint, stderr
from intraq_cli.events import Event, Noted, Report, StageDone, StageStarted, StepDone, Warned
from intraq_cli.words import counted, duration, one_line

if TYPE_CHECKING:
    from rich.text import Text

PLAIN_EVERY = 15.0
"""Minimum seconds between two plain lines."""
REFRESH = 4
"""Updates per second on a terminal."""
LONG = 3600.0
"""Seconds left of a stage above which a faster recipe is suggested."""


@contextmanager
def progress(quiet: bool, recipe: str = "") -> Iterator[Report]:
    """Yield a function to report events to; warnings and notes are shown even if ``quiet``.

    If a stage of the default ``recipe`` will take over an hour, the faster recipe is suggested once.
    """
    paces = _Paces(recipe)
    shown: AbstractContextManager[Report]
    if quiet:
        shown = nullcontext(_messages_only)
    elif sys.stderr.isatty() and not stderr.is_dumb_terminal:
        shown = _Bars(paces)
    else:
        shown = nullcontext(_Lines(paces).report)
    with shown as report:
        yield ending_if_interrupted(report)


def _messages_only(event: Event) -> None:
    match event:
        case Warned():
            stderr.print(f"[yellow]warning:[/] {escape(one_line(event.message))}")
        case Noted():
            stderr.print(escape(one_line(event.message)))


class _Paces:
    """The pace of every stage; suggests a faster recipe once if a stage of the default one will take long."""

    def __init__(self, recipe: str) -> None:
        self.stages: dict[str, Pace] = {}
        self.hint = recipe == "default"

    def start(self, event: StageStarted) -> Pace:
        self.stages[event.stage] = Pace(event.steps)
        return self.stages[event.stage]

    def note(self, event: StepDone) -> Pace:
        pace = self.stages[event.stage]
        pace.note(event)
        if self.hint and pace.left is not None and pace.left > LONG:
            self.hint = False
            print_hint(
                f"hint: this stage takes another {duration(pace.left)}; --recipe fast takes about an eighth of the time"
            )
        return pace


def _describe(event: StepDone, rate: str) -> str:
    terms = " ".join(f"{name} {value:.3g}" for name, value in event.values.items())
    return "  ".join(filter(None, (one_line(event.detail), rate, terms)))


class _Bars(AbstractContextManager[Report]):
    """A live line for the current stage, below the lines of finished stages."""

    def __init__(self, paces: "_Paces") -> None:
        from rich.live import Live

        self.paces = paces
        self.stage: Stage | None = None
        self.unicode = stderr.encoding.lower().startswith("utf")
        self.live = Live(get_renderable=self._shown, console=stderr, refresh_per_second=REFRESH, transient=True)

    def __enter__(self) -> Report:
        self.live.start()
        return self.report

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def _shown(self) -> "Text":
        from rich.text import Text

        return Text(self.stage.line(stderr.width - 1, self.unicode) if self.stage else "", no_wrap=True)

    def report(self, event: Event) -> None:
        match event:
            case StageStarted():
                self.stage = Stage(event, self.paces.start(event))
            case StepDone():
                self.paces.note(event)
                if self.stage:
                    self.stage.note(event)
            case StageDone():
                if self.stage:
                    ended, self.stage = self.stage.end(event.seconds, stderr.width - 1, self.unicode), None
                    self.live.refresh()  # otherwise the old line would be drawn again below
                    stderr.print(ended, markup=False)
            case Warned() | Noted():
                _messages_only(event)


def _print_line(text: str) -> None:
    """Print a line without markup, because names of files and losses may look like markup."""
    stderr.print(text, markup=False)


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
                _print_line(f"{event.stage}: {counted(event.steps, 'step')}, {one_line(event.detail)}")
            case StepDone():
                pace = self.paces.note(event)
                if now - self.last >= PLAIN_EVERY:
                    self.last = now
                    left = "" if pace.left is None else f"{duration(pace.left)} left  "
                    _print_line(f"{event.stage}: {event.step}/{pace.steps}  {left}{_describe(event, pace.rate)}")
            case StageDone():
                _print_line(f"{event.stage}: done in {duration(event.seconds)}")
            case Warned() | Noted():
                _messages_only(event)
