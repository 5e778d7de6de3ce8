"""``intraq compare``."""

import os
from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import one_line

if TYPE_CHECKING:
    from intraq_cli.results import ComparisonResult

SHOWN = 8
"""Number of batch norms to show, those that differ most."""


def compare(targets: options.Checkpoints, as_json: options.Json = False, quiet: options.QuietTable = False) -> None:
    """Compare checkpoints: bits, sizes, agreement, divergence, recorded accuracies, and noise at batch norms.

    intraq compare resnet18-w4a4 resnet18-w8a8
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import report as api

    result = api.compare(**given)
    if as_json:
        print_json(result)
    else:
        _print(result)
        if not quiet and all(os.path.isdir(one.path) for one in result.checkpoints):  # report takes no Hub ids
            print_hint(f"next: intraq report {calls.typed(*(('', one.path) for one in result.checkpoints))}")


def _print(result: "ComparisonResult") -> None:
    from intraq_cli.reports.comparison import noise_cells, table_of

    names, rows = table_of(result)
    worst = sorted(result.noise, key=lambda row: -row.spread)[:SHOWN]
    columns = [Column("", shrinks=True), *(Column(one_line(name), right=True) for name in names)]
    print_rows(columns, rows)
    if worst:
        print("\nsignal to noise in dB, where it differs most")
        print_rows([*columns, Column("spread", right=True)], [noise_cells(row) for row in worst])
    if not result.same_model:
        print_hint("the float weights differ, so agreement and divergence are not comparable")
