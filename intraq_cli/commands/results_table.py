"""Print the zoo's tables of results: as text, JSON or CSV."""

import csv
import re
import sys
from dataclasses import dataclass

from intraq_cli.commands.printing import print_hint, print_json
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.errors import UsageError

MODEL_COLUMNS = ("network", "architecture")
"""Names of the column with the network in tables of results."""
LAST = (
    "commit", "date", "device", "synthesis_seconds", "bytes_float", "image_steps", "kl_synthetic", "heterogeneity",
    "agreement_synthetic", "quantize_seconds", "bytes_quantized", "kl_real", "agreement_real", "images", "note", "seed",
)  # fmt: skip
"""Columns that a narrow terminal drops first, in this order; then it drops the others, from the right."""
ESSENTIAL = {*MODEL_COLUMNS, "bits", "float_top1", "top1", "drop", "method"}
SHRINK = {*MODEL_COLUMNS, "overrides", "setting", "source", "note", "device"}


@dataclass(frozen=True)
class RowFilter:
    """A filter for rows of a table of results; None: any value."""

    model: str | None = None
    """Part of a network's name."""
    recipe: str | None = None
    w: int | None = None
    a: int | None = None
    placement: str | None = None

    def apply(self, rows: list[dict[str, str]], table: str) -> list[dict[str, str]]:
        """Return the rows that match.

        Raises:
            UsageError: the table lacks a column of the filter.
        """
        asked = {"recipe": self.recipe, "placement": self.placement, "bits": self.w if self.a is None else self.a}
        for column, value in asked.items():
            if value is not None and column not in rows[0]:
                raise UsageError(f"the table {table} has no column {column}", f"it has {', '.join(rows[0])}")
        return [row for row in rows if self._wants(row)]

    def _wants(self, row: dict[str, str]) -> bool:
        name = next((row[column] for column in MODEL_COLUMNS if column in row), "")
        w, a = _bits(row.get("bits", ""))
        return (
            (self.model or "").lower() in name.lower()
            and self.recipe in (None, row.get("recipe"))
            and self.placement in (None, row.get("placement"))
            and self.w in (None, w)
            and self.a in (None, a)
        )


def _bits(text: str) -> tuple[int | None, int | None]:
    """Return the bits in a text such as ``W4A4``."""
    found = re.match(r"W(\d+)A(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (None, None)


def print_results(name: str, rows: list[dict[str, str]], chosen: RowFilter, as_json: bool, as_csv: bool) -> None:
    """Print the rows of a table that match a filter.

    Raises:
        UsageError: the table lacks a column of the filter.
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
        if sys.stdout.isatty():  # elsewhere the columns do not depend on the rows
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
