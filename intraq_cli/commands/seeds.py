"""``intraq quantize --seeds``."""

from typing import TYPE_CHECKING, Any

import typer

from intraq_cli.commands.printing import expected, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import duration

if TYPE_CHECKING:
    from intraq_cli.results import SeedsResult

COLUMNS = (
    Column("seed"),
    Column("folder", shrinks=True),
    Column("agreement", right=True),
    Column("divergence", right=True),
    Column("time", right=True, rank=1),
)


def quantize_seeds(given: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Quantize once for each seed and print all; those that failed are told by the exit code as well."""
    from intraq_cli.api import several as api

    with progress(quiet, given["recipe"]) as report:
        found = api.quantize_seeds(**given, report=report)
    if as_json:
        print_json(found)
    elif quiet:
        print("\n".join(run.path for run in found.runs))
    elif given["dry_run"]:
        for run in found.runs:
            print(f"would write {run.model} to {run.path}")
        print(f"each: {expected(found.runs[0].foretold, found.runs[0].device)}")
    else:
        _print(found)
    if found.failed:
        raise typer.Exit(1)


def _print(found: "SeedsResult") -> None:
    rows = [
        [str(run.seed), run.path, f"{run.agreement:.1f} %", f"{run.kl:.3f}", duration(run.seconds)]
        for run in found.runs
    ]
    failed = [[failure.name.removeprefix("seed "), "failed", "-", "-", "-"] for failure in found.failed]
    print_rows(COLUMNS, [*rows, *failed])
    (low, high), (least, most) = found.range["agreement"], found.range["kl"]
    agreement = f"{found.mean['agreement']:.1f} % on average, {low:.1f} to {high:.1f} %"
    divergence = f"{found.mean['kl']:.3f} nats on average, {least:.3f} to {most:.3f}"
    print_table(f"\n{len(found.runs)} seeds", [("agreement", agreement), ("divergence", divergence)])
