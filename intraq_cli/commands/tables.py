"""Tables with one row a thing: on a terminal as wide as it is, elsewhere plain, whole and unwrapped."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from intraq_cli.words import one_line

GAP = "  "
SHORTEST = 16
"""Characters that a shortened cell keeps, as far as it has them."""
ELLIPSIS, ASCII_ELLIPSIS = "…", "~"


@dataclass(frozen=True)
class Column:
    """One column, and what becomes of it where the terminal is narrow."""

    name: str
    right: bool = False
    """Numbers stand at the right."""
    rank: int = 0
    """The columns of the highest rank go first where not all fit; those of rank 0 stay."""
    shrinks: bool = False
    """Long cells are shortened in their middle before any column goes."""


def print_rows(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, its header in bold on a terminal; says on its last line what did not fit."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [[column.name for column in columns], *cells]:
            print(_line(columns, row, _widths(columns, cells)))
        return
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    kept, widths = fitted(columns, cells, shutil.get_terminal_size().columns)
    mark = ELLIPSIS if console.encoding.startswith("utf") else ASCII_ELLIPSIS
    shown = [columns[k] for k in kept]
    console.print(_line(shown, [column.name for column in shown], widths, mark), style="bold", markup=False)
    for row in cells:
        console.print(_line(shown, [row[k] for k in kept], widths, mark), markup=False)
    if left_out := [column.name for k, column in enumerate(columns) if k not in kept]:
        text = f"not shown, for want of width: {', '.join(left_out)}"
        console.print(text, style="dim", markup=False)


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], list[int]]:
    """Which columns a line of ``width`` has room for, and how wide they are: cells shrink first, then columns go.

    What is left may be wider still where columns of rank 0 alone are too many.
    """
    kept, full = list(range(len(columns))), _widths(columns, rows)
    while True:
        widths = {k: full[k] for k in kept}
        over = sum(widths.values()) + len(GAP) * (len(kept) - 1) - width
        for k in sorted(kept, key=lambda k: -full[k]):
            if over > 0 and columns[k].shrinks:
                narrow = max(min(full[k], max(SHORTEST, cell_len(columns[k].name))), full[k] - over)
                over -= full[k] - narrow
                widths[k] = narrow
        last = max(kept, key=lambda k: (columns[k].rank, k))
        if over <= 0 or not columns[last].rank:
            return kept, list(widths.values())
        kept.remove(last)


def shortened_cell(text: str, width: int, mark: str = ELLIPSIS) -> str:
    """``text``, its middle left out where it takes more than ``width`` cells: both ends tell names apart."""
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = width - 1 - head
    end = text[-tail:] if tail else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, head).rstrip() + mark + end


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, [column.name, *(row[k] for row in rows)])) for k, column in enumerate(columns)]


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], mark: str = ELLIPSIS) -> str:
    texts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = shortened_cell(cell, width, mark)
        padding = " " * (width - cell_len(text))
        texts.append(padding + text if column.right else text + padding)
    return GAP.join(texts).rstrip()
