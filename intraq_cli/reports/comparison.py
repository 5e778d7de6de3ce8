"""Compare checkpoints: the values of each, and where they differ."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from intraq_cli.reports.folder import Record
from intraq_cli.reports.one import has_mixed_bits
from intraq_cli.results import ComparedCheckpoint, ComparedNoise, ComparisonResult
from intraq_cli.words import NONE, decimals, duration, file_size, sample_of, widths


def comparison(records: Sequence[Record], paths: Sequence[str]) -> ComparisonResult:
    """Compare records, which were read from ``paths``."""
    weights = {record.run.teacher.sha256 for record in records}
    names = names_of(records)
    checkpoints = [_checkpoint(*each) for each in zip(records, paths, names, strict=True)]
    return ComparisonResult(checkpoints, len(weights) == 1 and None not in weights, _noise(records))


def names_of(records: Sequence[Record]) -> list[str]:
    """Return the names of the folders; repeated names are numbered from the second on."""
    seen: Counter[str] = Counter()
    names = []
    for record in records:
        seen[record.name] += 1
        names.append(record.name if seen[record.name] == 1 else f"{record.name} ({seen[record.name]})")
    return names


def _checkpoint(record: Record, path: str, name: str) -> ComparedCheckpoint:
    run, made, found, export = record.run, record.run.measured, record.run.inspection, record.run.export
    return ComparedCheckpoint(
        path=path,
        name=name,
        model=run.teacher.source,
        w_bits=found.w_bits if found else None,
        a_bits=found.a_bits if found else None,
        mixed_bits=found is not None and has_mixed_bits(found),
        act_placement=found.act_placement if found else None,
        recipe=run.recipe.name,
        seed=run.seed,
        bytes_float=made.bytes_float,
        bytes_quantized=made.bytes_quantized,
        low_bit_share=found.low_bit_share if found else None,
        agreement=made.agreement,
        kl=made.kl,
        held_out=made.held_out,
        ms_float=export.ms_float if export else None,
        ms_quantized=export.ms_quantized if export else None,
        seconds=run.seconds,
        evaluations=[one.model_dump(exclude_none=True) for one in run.evaluations],
    )


def _noise(records: Sequence[Record]) -> list[ComparedNoise]:
    """Return a row for each batch norm in several records; none if most names differ (other architectures)."""
    names = list(dict.fromkeys(name for record in records for name in record.run.measured.sqnr))
    rows = []
    for name in names:
        values = [record.run.measured.sqnr.get(name) for record in records]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            rows.append(ComparedNoise(name, values, max(known) - min(known)))
    return rows if 2 * len(rows) >= len(names) else []


def noise_cells(row: ComparedNoise) -> list[str]:
    """Return the cells of a batch norm's row: its name, a value for each checkpoint, and the spread."""
    return [row.name, *(decimals(value, 1) for value in row.values), f"{row.spread:.1f}"]


def table_of(found: ComparisonResult) -> tuple[list[str], list[list[str]]]:
    """Return the names of the checkpoints, and a row for each value that any of them has."""
    all_of = found.checkpoints
    rows = [
        ["float network", *(one.model or NONE for one in all_of)],
        [
            "bits",
            *(widths(one.w_bits, one.a_bits, one.mixed_bits) if one.w_bits and one.a_bits else NONE for one in all_of),
        ],
        ["placement", *(one.act_placement or NONE for one in all_of)],
        ["recipe", *(one.recipe for one in all_of)],
        ["seed", *(str(one.seed) for one in all_of)],
        ["size", *(file_size(one.bytes_quantized) for one in all_of)],
        ["float size", *(file_size(one.bytes_float) for one in all_of)],
        ["low-bit multiply-adds, %", *(decimals(one.low_bit_share, 1) for one in all_of)],
        ["agreement, %", *(decimals(one.agreement, 1) for one in all_of)],
        ["divergence, nats", *(decimals(one.kl, 4) for one in all_of)],
        ["held-out images", *(NONE if one.held_out is None else str(one.held_out) for one in all_of)],
        *_accuracies(all_of),
        ["export, ms a batch", *(decimals(one.ms_quantized, 3) for one in all_of)],
        ["float32, ms a batch", *(decimals(one.ms_float, 3) for one in all_of)],
        ["time", *(duration(one.seconds) for one in all_of)],
    ]
    return [one.name for one in all_of], [row for row in rows if set(row[1:]) != {NONE}]


def _accuracies(all_of: Sequence[ComparedCheckpoint]) -> list[list[str]]:
    """Return rows of top-1, float top-1 and top-5 for every data set that any checkpoint was measured on."""
    rows = []
    for key in dict.fromkeys(data_key(row) for one in all_of for row in one.evaluations):
        measured = [next((row for row in one.evaluations if data_key(row) == key), None) for one in all_of]
        for label, field in (("top-1", "top1"), ("float top-1", "float_top1"), ("top-5", "top5")):
            cells = [NONE if row is None else f"{row[field]:.2f}" for row in measured]
            rows.append([f"{label} on {key}, %", *cells])
    return rows


def data_key(row: dict[str, Any]) -> str:
    """Return what must be equal in two measurements for them to be comparable."""
    part = f", {row['split']}" if row.get("split") else ""
    return f"{row['data']}{part} ({row['n']} images{sample_of(row)})"
