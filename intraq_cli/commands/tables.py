"""Print tables: fitted to the width of a terminal; elsewhere plain, complete and unwrapped."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from intraq_cli.words import one_line

GAP = "  "
SHORTEST = 16
"""Minimum width of a shortened cell."""
ELLIPSIS, ASCII_ELLIPSIS = "…", "~"


@dataclass(frozen=True)
class Column:
    """A column, and how it adapts to a narrow terminal."""

    name: str
    right: bool = False
    """Whether to align cells to the right, as for numbers."""
    rank: int = 0
    """If not all columns fit, those of the highest rank are dropped first; those of rank 0 stay."""
    shrinks: bool = False
    """Whether to shorten long cells in the middle before any column is dropped."""


def print_rows(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; on a terminal with a bold header, and a last line naming columns that do not fit."""
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
        text = f"not shown, as the terminal is too narrow: {', '.join(left_out)}"
        console.print(text, style="dim", markup=False)


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], list[int]]:
    """Return which columns fit into a line of ``width``, and their widths; cells shrink before columns are dropped.

    The result may be wider than ``width`` if the columns of rank 0 alone do not fit.
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
    """Shorten ``text`` to ``width`` cells in the middle, because both ends help to distinguish names."""
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
