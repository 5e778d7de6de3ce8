"""The zoo's tables of results: for people, as JSON and as CSV."""

import csv
import sys

from intraq_cli import zoo
from intraq_cli.commands.printing import print_hint, print_json
from intraq_cli.commands.tables import Column, print_rows

LAST = (
    *("commit", "date", "device", "synthesis_seconds", "bytes_float", "image_steps", "kl_synthetic", "heterogeneity"),
    *("agreement_synthetic", "quantize_seconds", "bytes_quantized", "agreement_real", "images", "note", "seed"),
)
"""Columns that go first where a terminal is narrow, in this order; the others go after them, from the right."""
ESSENTIAL = {*zoo.MODEL_COLUMNS, "bits", "float_top1", "top1", "drop", "method"}
SHRINK = {*zoo.MODEL_COLUMNS, "overrides", "setting", "source", "note", "device"}


def print_results(name: str, rows: list[dict[str, str]], chosen: zoo.RowFilter, as_json: bool, as_csv: bool) -> None:
    """Print the rows of a table that a filter lets through.

    Raises:
        UsageError: the table has no such column.
    """
    header = list(rows[0])
    found = chosen.apply(rows, name)
    if as_json:
        print_json({"name": name, "rows": found})
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    else:
        if sys.stdout.isatty():  # elsewhere columns do not come and go with the rows
            header = [key for key in header if any(row[key] for row in found)] or header
        columns = [_column(key, place, [row[key] for row in rows]) for place, key in enumerate(header)]
        print_rows(columns, [[row[key] or "-" for key in header] for row in found])
        if len(found) < len(rows):
            print_hint(f"{len(found)} of {len(rows)} rows of {name}")


def _column(key: str, place: int, values: list[str]) -> Column:
    others = 100 + len(LAST) - LAST.index(key) if key in LAST else 1 + place
    rank = 0 if key in ESSENTIAL else others
    return Column(key, all(map(_is_number, values)), rank, key in SHRINK)


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
