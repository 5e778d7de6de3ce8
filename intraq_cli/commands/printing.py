"""Print results on stdout, and everything else on stderr."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape

from intraq_cli.errors import IntraqError
from intraq_cli.io.json_files import jsonable
from intraq_cli.words import duration, stage_times

if TYPE_CHECKING:
    from intraq_cli.results import Forecast

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_json(data: Any) -> None:
    """Print one JSON object on stdout; NaN and infinity become null."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        data = dataclasses.asdict(data)
    letters = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(jsonable(data), ensure_ascii=not letters))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a title, and names and values in two columns, on stdout."""
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def print_error(error: IntraqError, as_json: bool) -> None:
    """Print one line and a hint on stderr; with ``--json``, also an error object on stdout."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    stderr.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        stderr.print(f"[dim]hint:[/] {escape(error.hint)}")


def print_hint(text: str) -> None:
    """Print a suggestion on stderr."""
    stderr.print(f"[dim]{escape(text)}[/]")


def heterogeneity(value: float) -> str:
    """Return the value as text, or why there is none."""
    return "not defined: no class has two images" if math.isnan(value) else f"{value:.3f}"


def expected(forecast: "Forecast | None", device: str) -> str:
    """Return the time and memory that a dry run expects, as text."""
    if forecast is None:
        return "time and memory: no estimate, as there are no steps to time"
    memory = "" if forecast.memory_bytes is None else f", {forecast.memory_bytes / 1e9:.1f} GB of memory"
    return f"about {duration(forecast.seconds)} on {device} ({stage_times(forecast.stages)}){memory}"


class StdoutFailed(BaseException):
    """Standard output failed. Neither typer nor a command may handle this as an error of another file.

    Args:
        error: the cause.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.closed = isinstance(error, BrokenPipeError)
        """Whether the reader of a pipe has gone."""
        self.reason = error.strerror or str(error)


class _Checked:
    """A stream whose failures can be distinguished from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _failing():
            return self._stream.write(text)

    def flush(self) -> None:
        with _failing():
            self._stream.flush()


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutFailed(error) from error


@contextmanager
def checked_stdout() -> Iterator[None]:
    """Raise :class:`StdoutFailed` if standard output fails, and drop what is buffered."""
    stream = sys.stdout
    if stream is None:  # closed before the start: discard the output
        stream = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if hasattr(stream, "reconfigure"):  # a character that the terminal cannot encode must not lose a result
        stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Checked(stream)
    try:
        yield
    except StdoutFailed:
        # otherwise the interpreter flushes again at exit, and prints an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise
    finally:
        sys.stdout = stream
