"""Results on stdout, everything else on stderr."""

import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from intraq_cli.errors import IntraqError
from intraq_cli.io.atomic import plain
from intraq_cli.words import duration

if TYPE_CHECKING:
    from intraq_cli.results import Foretold

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """One JSON object on stdout; what is not a number (NaN, infinity) becomes null."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        data = dataclasses.asdict(data)
    print(json.dumps(plain(data), ensure_ascii=False))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A title, and names and values in two columns, on stdout."""
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def print_error(error: IntraqError, as_json: bool) -> None:
    """One line and a hint on stderr; with ``--json`` an error object on stdout as well."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    stderr.print(f"[bold red]error:[/] {escaped(error.message)}")
    if error.hint:
        stderr.print(f"[dim]hint:[/] {escaped(error.hint)}")


def print_hint(text: str) -> None:
    """A suggestion on stderr."""
    stderr.print(f"[dim]{escaped(text)}[/]")


def escaped(text: str) -> str:
    """``text`` as rich prints it letter by letter: brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def heterogeneity(value: float) -> str:
    """The figure, or why there is none."""
    return "not defined: no class has two images" if math.isnan(value) else f"{value:.3f}"


def expected(foretold: "Foretold | None", device: str) -> str:
    """What a dry run has found out of time and memory, for people."""
    if foretold is None:
        return "time and memory: not told beforehand, there are no steps to time"
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in foretold.stages.items())
    memory = "" if foretold.memory_bytes is None else f", {foretold.memory_bytes / 1e9:.1f} GB of memory"
    return f"about {duration(foretold.seconds)} on {device} ({stages}){memory}"


def flush() -> None:
    """Hand out what is still buffered, so that a closed pipe shows here and not at interpreter exit."""
    sys.stdout.flush()
