"""Build the report page of one run, from its verdict to its versions."""

import base64
from collections.abc import Sequence
from functools import partial

from intraq_cli.reports.charts import Axis, Series, histogram, row_chart, shortened, xy_chart
from intraq_cli.reports.facts import accuracies_section, circumstances_section, export_section, layers_section
from intraq_cli.reports.folder import Record
from intraq_cli.reports.layout import Fact, Figure, Page, Section, Table, Tile, panel
from intraq_cli.reports.losses import losses_section
from intraq_cli.reports.record import FrontierPoint, Inspection, LayerMoves, RangeRow, Run
from intraq_cli.reports.scale import number
from intraq_cli.results import InspectionResult
from intraq_cli.words import (
    byte_unit,
    data_of,
    decimals,
    duration,
    file_size,
    held_out_images,
    images_of,
    ratio,
    stage_times,
    widths,
)

MOST_ROWS = 20
"""Maximum number of layers in the chart of the most sensitive layers."""
MOST_RANGES = 12
MOST_DOTS = 100
"""Maximum number of points of a line with dots; a longer line is drawn without them."""


def page(record: Record) -> Page:
    """Return the page with all that is recorded about a run; sections without data are left out."""
    run = record.run
    sections = [
        _frontier(run.frontier),
        _sensitivity(run.sensitivity, run),
        _noise(run),
        _ranges(run.ranges[:MOST_RANGES]),
        _images(record),
        losses_section(run, record.steps),
        layers_section(run),
        accuracies_section(run),
        export_section(run),
        circumstances_section(run),
    ]
    bits = bits_of(run)
    return Page(
        title=f"{run.name}{', ' + bits if bits else ''}",
        subtitle=f"quantized with {data_of(run.measured.pictures)}",
        verdict=verdict(run),
        facts=_facts(run),
        command=run.command,
        sections=[section for section in sections if section is not None],
    )


def bits_of(run: Run) -> str:
    """Return bits such as ``W4A4``, those of most layers if they differ; empty if unknown."""
    found = run.inspection
    if found is None:
        return ""
    return widths(found.w_bits, found.a_bits, has_mixed_bits(found))


def has_mixed_bits(found: Inspection | InspectionResult) -> bool:
    """Return whether bits differ between weights, or between layers' inputs other than the image."""
    read = found.layers[found.act_placement != "activations" :]
    held = [layer.w_bits for layer in found.layers], [layer.a_bits for layer in read]
    return any(len({*bits} - {None}) > 1 for bits in held)


def verdict(run: Run) -> str:
    """Return the result as text: accuracy if one is recorded, else agreement and divergence, else the logits' error."""
    made = run.measured
    smaller = ratio(made.bytes_float, made.bytes_quantized)
    if run.evaluations:
        one = run.evaluations[-1]
        change = f"Top-1 on {one.data} goes from {one.float_top1:.2f} % (float) to {one.top1:.2f} %"
        return f"{change}, measured on {one.n:,} images; the file is {smaller}. {undone(run)}".rstrip()
    if made.agreement is not None:
        return (
            f"Top-1 predictions equal the float network's on {made.agreement:.1f} % of {made.held_out} "
            f"{images_of(made.pictures)} that tuning did not see, at a divergence of {decimals(made.kl, 3)} nats; "
            f"the file is {smaller}. {undone(run)}Accuracy on real images was not measured yet."
        )
    how, off = "without images" if made.images is None else "with images, of which none was held out", ""
    if made.random_images:
        how = "with random images, as the batch-norm statistics do not fit the network"
    if made.logits_error is not None:
        off = f"on random images the logits are off by {decimals(made.logits_error, 3)} of their spread; "
    return f"Quantized {how}; {off}the file is {smaller}. Accuracy on real images was not measured yet."


def undone(run: Run) -> str:
    """Return a sentence if tuning was undone, else an empty string."""
    return "Tuning made the network worse and was discarded: it is only calibrated. " * run.measured.tuning_undone


def _facts(run: Run) -> list[Fact]:
    made = run.measured
    facts = []
    if run.evaluations:
        one = run.evaluations[-1]
        change = one.top1 - one.float_top1
        note = f"float {one.float_top1:.2f} %: {change:+.2f} points, {one.n:,} images"
        facts.append(Fact("top-1", f"{one.top1:.2f} %", note))
    if made.agreement is not None:
        note = f"of {held_out_images(made.held_out or 0, made.pictures)}; divergence {decimals(made.kl, 3)} nats"
        facts.append(Fact("agreement", f"{made.agreement:.1f} %", note))
    smaller = ratio(made.bytes_float, made.bytes_quantized)
    facts.append(Fact("size", file_size(made.bytes_quantized), f"float {file_size(made.bytes_float)}: {smaller}"))
    if run.inspection:
        found = run.inspection
        most = " of most layers" if has_mixed_bits(found) else ""
        note = f"weights{most} and activations, placement {found.act_placement}"
        facts.append(Fact("bits", f"{found.w_bits} / {found.a_bits}", note))
    facts.append(Fact("time", duration(run.seconds), f"on {run.device}: {stage_times(run.stages)}"))
    return facts


def _frontier(points: Sequence[FrontierPoint]) -> Section | None:
    if len(points) < 2:
        return None
    ordered = sorted(points, key=lambda point: point.bytes)
    unit, name = byte_unit(ordered[-1].bytes)
    places = [(point.bytes / unit, point.divergence) for point in ordered]
    chosen = [place for place, point in zip(places, ordered, strict=True) if point.chosen][:1]
    series = [
        Series(places, "s1", dots=len(places) <= MOST_DOTS),
        Series(chosen, "s0", line=False, dots=True, names=["this one"] * len(chosen)),
    ]
    y = Axis("divergence", log=all(point.divergence > 0 for point in points))
    rows = [[file_size(point.bytes), f"{point.divergence:.4g}", "chosen" if point.chosen else ""] for point in ordered]
    table = Table(["size", "divergence", ""], rows, texts=(2,))
    chart = panel(lambda width: xy_chart(series, Axis(f"size, {name}"), y, width))
    lead = "Choices of bits by layer: file size, and expected divergence before tuning, summed over the layers."
    return Section("Size against divergence", lead, [Figure([chart], table, f"{len(rows)} choices as a table")])


def _widths(moves: Sequence[dict[str, float | None]]) -> list[int]:
    """Return all widths that were tried, in ascending order."""
    return sorted({int(key) for one in moves for key in one if key.isdecimal()})


def _nearest(widths: list[int], bits: int) -> int:
    """Return the tried width that is nearest to ``bits``, or ``bits`` if none was tried."""
    return min(widths, key=lambda width: abs(width - bits), default=bits)


def _sensitivity(layers: Sequence[LayerMoves], run: Run) -> Section | None:
    if not layers or run.inspection is None:
        return None
    w_tried, a_tried = (_widths([getattr(one, kind) for one in layers]) for kind in ("weights", "inputs"))
    w, a = _nearest(w_tried, run.inspection.w_bits), _nearest(a_tried, run.inspection.a_bits)
    found = [(layer.name, (layer.weights.get(str(w)), layer.inputs.get(str(a)))) for layer in layers]
    worst = sorted(found, key=lambda row: -max(value or 0.0 for value in row[1]))[:MOST_ROWS]
    held = [value for _, values in worst for value in values if value is not None]
    if not held:
        return None
    x = Axis("divergence", log=min(held) > 0 and max(held) > 30 * min(held), zero=True)
    head = ["layer", *(f"W{width}" for width in w_tried), *(f"A{width}" for width in a_tried)]
    rows = [
        [
            *(layer.name, *(decimals(layer.weights.get(str(width)), 4) for width in w_tried)),
            *(decimals(layer.inputs.get(str(width)), 4) for width in a_tried),
        ]
        for layer in layers
    ]
    legend = [(0, f"weight at {w} bits"), (1, f"input at {a} bits")]
    shown = legend[: 1 + any(moves[1] is not None for _, moves in worst)]
    chart = panel(lambda width: row_chart(worst, x, width), legend=shown)
    many = f"The {len(worst)} most sensitive of {len(found)} layers" if len(found) > len(worst) else "Layers"
    lead = f"{many}: the divergence when the weights or the input of one layer alone are quantized."
    return Section("Sensitivity by layer", lead, [Figure([chart], Table(head, rows), f"{len(rows)} layers as a table")])


def _noise(run: Run) -> Section | None:
    found = {name: value for name, value in run.measured.sqnr.items() if value is not None}
    if not found:
        return None
    worst = min(found, key=lambda name: found[name])
    places = [(float(k), value) for k, value in enumerate(found.values(), 1)]
    names = [shortened(name, 26) if name == worst else "" for name in found]
    series = [Series(places, dots=len(places) <= MOST_DOTS, names=names)]
    x, y = (
        Axis("batch norm, from the image to the classes", tight=True),
        Axis("signal to noise, dB", zero=min(found.values()) < 6, room=True),
    )
    chart = panel(lambda width: xy_chart(series, x, y, width))
    rows = [[str(k), name, decimals(value, 1)] for k, (name, value) in enumerate(run.measured.sqnr.items(), 1)]
    lead = (
        f"Signal-to-quantization-noise ratio at the output of every batch norm, on the held-out "
        f"{images_of(run.measured.pictures)}. Lowest: {found[worst]:.1f} dB, at {shortened(worst, 60)}."
    )
    table = Table(["", "batch norm", "dB"], rows, texts=(1,))
    return Section("Quantization noise by depth", lead, [Figure([chart], table, f"{len(rows)} batch norms as a table")])


def _ranges(ranges: Sequence[RangeRow]) -> Section | None:
    if not ranges:
        return None
    panels = []
    for row in ranges:
        ends, grid = (row.low, row.high), (row.grid_low, row.grid_high)
        label = f"values at {row.site or 'network'}"
        note = f"{row.bits} bits, {decimals(row.clipped, 2)} % clipped, {decimals(row.sqnr, 1)} dB"
        draw = partial(histogram, row.counts, ends, grid, label)
        panels.append(panel(draw, shortened(row.site or "network", 34), note, columns=3))
    head = ["activation", "bits", "lowest", "highest", "grid from", "grid to", "clipped, %", "dB"]
    rows = [
        [
            *(row.site, str(row.bits)),
            *map(number, (row.low, row.high, row.grid_low, row.grid_high)),
            *(decimals(row.clipped, 3), decimals(row.sqnr, 1)),
        ]
        for row in ranges
    ]
    lead = (
        f"Values before rounding at the {len(rows)} activation quantizers with the largest error; dashed lines mark "
        "the ends of the grid, beyond which values are clipped. Shares are on a logarithmic scale."
    )
    table = Table(head, rows)
    return Section("Ranges of the worst activations", lead, [Figure(panels, table, "ranges as a table", columns=3)])


def _images(record: Record) -> Section | None:
    run = record.run
    pairs = list(zip(record.thumbnails, run.samples, strict=False))
    if not pairs:
        return None

    def name(k: int) -> str:
        return record.labels[k] if 0 <= k < len(record.labels) else f"class {k}"

    tiles, rows = [], []
    for k, (content, sample) in enumerate(pairs, 1):
        kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        doubted = sample.first != sample.label
        note = f"{sample.confidence:.0f} %" + (f", predicted as {shortened(name(sample.first), 24)}" if doubted else "")
        tiles.append(Tile(uri, shortened(name(sample.label), 30), note, doubted))
        rows.append([str(k), name(sample.label), decimals(sample.confidence, 1), name(sample.first)])
    share = run.measured.teacher_accuracy_synthetic
    into = "" if share is None else f" It assigns {share:.1f} % of all images to their class."
    teacher = f"other weights ({shortened(run.images_from, 60)})" if run.images_from else "the network alone"
    lead = f"Learned from {teacher}, with the class of each and the float network's confidence in it.{into}"
    table = Table(["", "class", "confidence, %", "top-1 prediction"], rows, texts=(1, 3))
    return Section("Synthetic images", lead, tiles=tiles, details=[("images as a table", table)])
