"""``intraq quantize --seeds``."""

from typing import TYPE_CHECKING, Any

import typer

from intraq_cli.commands.printing import expected, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import NONE, counted, duration

if TYPE_CHECKING:
    from intraq_cli.results import SeedsResult

FIGURES = {
    "agreement": ("agreement", "{:.1f} %"),
    "kl": ("divergence", "{:.3f} nats"),
    "logits_error": ("logits off by", "{:.3f}"),
}
"""Title and number format of each value, which is shown if it is known."""


def quantize_seeds(given: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Quantize once for each seed and print all results; exit with code 1 if any seed failed."""
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
        print(f"each: {expected(found.runs[0].forecast, found.runs[0].device)}")
    else:
        _print(found)
    if found.failed:
        raise typer.Exit(1)


def _print(found: "SeedsResult") -> None:
    known = {name: FIGURES[name] for name in found.mean}
    columns = [
        *(Column("seed"), Column("folder", shrinks=True)),
        *(Column(title, right=True) for title, _ in known.values()),
        Column("time", right=True, rank=1),
    ]
    rows = [
        [
            *(str(run.seed), run.path),
            *(form.format(getattr(run, name)) for name, (_, form) in known.items()),
            duration(run.seconds),
        ]
        for run in found.runs
    ]
    failed = [[failure.name.removeprefix("seed "), "failed", *[NONE] * (len(columns) - 2)] for failure in found.failed]
    print_rows(columns, [*rows, *failed])
    averages = []
    for name, (title, form) in known.items():
        low, high = map(form.format, found.range[name])
        averages.append((title, f"{form.format(found.mean[name])} on average, {low} to {high}"))
    print_table(f"\n{counted(len(found.runs), 'seed')}", averages)
