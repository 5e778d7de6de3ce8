"""The parts of a page: sections with charts, each with a table of its values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDE, NARROW = 800.0, 350.0
"""Widths in pixels that a chart is drawn for: for a screen or paper, and for a phone."""
LONGEST_TABLE = 400
LONGEST_TEXT = 160


@dataclass(frozen=True)
class Table:
    """A table of text cells; columns in ``texts`` are left-aligned, the others are right-aligned numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: tuple[int, ...] = (0,)

    @property
    def shown(self) -> list[list[str]]:
        """Return the first rows, with long cells cut."""
        return [[cell[:LONGEST_TEXT] for cell in row] for row in self.rows[:LONGEST_TABLE]]

    @property
    def more(self) -> int:
        """Return the number of rows that are left out."""
        return max(0, len(self.rows) - LONGEST_TABLE)


@dataclass(frozen=True)
class Panel:
    """A chart, drawn for two widths, and the heading above it."""

    wide: Markup
    narrow: Markup
    title: str = ""
    note: str = ""
    legend: Sequence[tuple[int, str]] = ()
    """Style number and name of each series."""


@dataclass(frozen=True)
class Figure:
    """Charts that share a table."""

    panels: Sequence[Panel]
    table: Table
    summary: str
    """Label of the table while it is collapsed."""
    title: str = ""
    columns: int = 1
    """Number of charts side by side, if there is room."""


@dataclass(frozen=True)
class Tile:
    """A synthetic image, as a data URI, with its class."""

    uri: str
    name: str
    note: str
    doubted: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    tiles: Sequence[Tile] = ()
    table: Table | None = None
    """A table that is not collapsed."""
    details: Sequence[tuple[str, Table]] = field(default=())
    """Labels and further tables, collapsed."""


@dataclass(frozen=True)
class Fact:
    """One of the large numbers at the top of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A complete page."""

    title: str
    subtitle: str
    verdict: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    command: str = ""


def panel(
    draw: Callable[[float], Markup],
    title: str = "",
    note: str = "",
    columns: int = 1,
    legend: Sequence[tuple[int, str]] = (),
) -> Panel:
    """Draw a chart for both widths with ``draw(width)``; ``columns`` charts share the wide one."""
    room = (WIDE - 28 * (columns - 1)) / columns
    return Panel(draw(room), draw(NARROW), title, note, legend)
