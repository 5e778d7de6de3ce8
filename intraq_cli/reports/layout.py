"""What a page is made of: sections of pictures, each with the table of its figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDE, NARROW = 800.0, 350.0
"""Widths in pixels that a chart is drawn for: of a screen or a sheet of paper, and of a telephone."""
LONGEST_TABLE = 400
LONGEST_TEXT = 160


@dataclass(frozen=True)
class Table:
    """Cells of text; columns in ``texts`` begin at the left, the others hold numbers and end at the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: tuple[int, ...] = (0,)

    @property
    def shown(self) -> list[list[str]]:
        """The first rows, with cells of bearable length."""
        return [[cell[:LONGEST_TEXT] for cell in row] for row in self.rows[:LONGEST_TABLE]]

    @property
    def more(self) -> int:
        """Rows that are left out."""
        return max(0, len(self.rows) - LONGEST_TABLE)


@dataclass(frozen=True)
class Panel:
    """A chart, drawn for two widths, and the line above it."""

    wide: Markup
    narrow: Markup
    title: str = ""
    note: str = ""
    legend: Sequence[tuple[int, str]] = ()
    """Number of the style, and name, of each series."""


@dataclass(frozen=True)
class Figure:
    """Charts that share a table."""

    panels: Sequence[Panel]
    table: Table
    summary: str
    """What the table is called while it is closed."""
    title: str = ""
    columns: int = 1
    """Charts side by side where there is room."""


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
    """Shown open; of a section without a picture."""
    details: Sequence[tuple[str, Table]] = field(default=())
    """Further tables, closed."""


@dataclass(frozen=True)
class Fact:
    """One of the large figures at the top."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All of it."""

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
    """A chart for both widths; ``draw`` takes one; of several side by side it is a part of the whole."""
    room = (WIDE - 28 * (columns - 1)) / columns
    return Panel(draw(room), draw(NARROW), title, note, legend)
