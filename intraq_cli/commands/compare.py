"""``intraq compare``."""

from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json
from intraq_cli.errors import one_line

if TYPE_CHECKING:
    from intraq_cli.results import ComparisonResult

SHOWN = 8
"""Batch norms, of those that differ most."""


def compare(targets: options.Checkpoints, as_json: options.Json = False, quiet: options.QuietTable = False) -> None:
    """Put checkpoints side by side: bits, sizes, agreement, divergence, accuracies noted, noise by layer.

    intraq compare resnet18-w4a4 resnet18-w8a8
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import report as api

    result = api.compare(**given)
    if as_json:
        print_json(result)
    else:
        _print(result)
        if not quiet:
            print_hint(f"next: intraq report {calls.typed(*(('', one.path) for one in result.checkpoints))}")


def _print(result: "ComparisonResult") -> None:
    from intraq_cli.reports.comparison import table_of
    from intraq_cli.words import decimals

    names, rows = table_of(result)
    worst = sorted(result.noise, key=lambda row: -row.spread)[:SHOWN]
    noise = [[row.name, *(decimals(value, 1) for value in row.values), f"{row.spread:.1f}"] for row in worst]
    print(_aligned([["", *names], *rows]))
    if noise:
        print(f"\nsignal to noise in dB, where it differs most\n{_aligned([['', *names, 'spread'], *noise])}")
    if not result.same_model:
        print_hint("not all are of the same float weights: agreement and divergence are of different networks")


def _aligned(rows: list[list[str]]) -> str:
    """Lines of cells; names begin at the left, figures end at the right."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for name, *cells in shown:
        figures = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *figures]).rstrip())
    return "\n".join(lines)
