"""Build sections of plain facts: layers, accuracies, the exported file, circumstances."""

from collections.abc import Iterator

from intraq_cli.reports.charts import Axis, row_chart
from intraq_cli.reports.layout import Figure, Section, Table, panel
from intraq_cli.reports.record import Run
from intraq_cli.words import NONE, counted, decimals, logits_differ, told_bits


def layers_section(run: Run) -> Section | None:
    """Return the section about what is quantized and what stays float."""
    found = run.inspection
    if found is None:
        return None
    kept = [layer for layer in found.layers if layer.float_reason]
    total = max(1, sum(layer.multiply_adds for layer in found.layers))
    lead = (
        f"{len(found.layers) - len(kept)} of {len(found.layers)} operations that multiply are quantized; "
        f"{found.low_bit_share:.1f} % of the multiply-adds have both factors in low bits."
    )
    if found.act_placement != "integer":
        lead += (
            " Batch norms, biases and sums of residual branches stay float: only placement integer quantizes them too."
        )
    table = None
    if kept:
        rows = [
            [one.name, one.kind, decimals(100 * one.multiply_adds / total, 2), str(one.float_reason)] for one in kept
        ]
        table = Table(["stays float", "kind", "multiply-adds, %", "why"], rows, texts=(0, 1, 3))
    rows = [
        [
            *(layer.name, layer.kind, "x".join(map(str, layer.weight_shape))),
            *(str(layer.w_bits or "float"), told_bits(layer.call_bits, layer.a_bits)),
            *(f"{layer.parameters:,}", f"{layer.multiply_adds:,}", f"{layer.bytes:,}"),
        ]
        for layer in found.layers
    ]
    head = ["layer", "kind", "weight", "W", "A", "parameters", "multiply-adds", "bytes"]
    every = Table(head, rows, texts=(0, 1, 2))
    return Section("What is quantized", lead, table=table, details=[(f"all {len(rows)} as a table", every)])


def accuracies_section(run: Run) -> Section | None:
    """Return the section with all accuracies on labelled images."""
    if not run.evaluations:
        return None
    rows = [
        [
            *(one.data + (f", {one.split}" if one.split else ""), f"{one.n:,}"),
            *(f"{x:.2f}" for x in (one.top1, one.float_top1, one.top5, one.float_top5, one.agreement)),
            one.date,
        ]
        for one in run.evaluations
    ]
    head = ["data", "images", "top-1", "float", "top-5", "float", "agreement", "date"]
    return Section("Accuracy", "In percent, beside the float network on the same images.", table=Table(head, rows))


def export_section(run: Run) -> Section | None:
    """Return the section about the check of ``model.onnx``."""
    made = run.export
    if made is None:
        return None
    times = made.ms_float / made.ms_quantized if made.ms_quantized else 0.0
    layers = len(made.layers_integer) + len(made.layers_float)
    same = "equal" if made.first_choices_equal else "not all equal"
    lead = (
        f"{len(made.layers_integer)} of {layers} layers run on integers in onnxruntime, {times:.2f} times as fast "
        f"as float32 (batch of {made.batch}, {counted(made.threads, 'thread')}, {made.processor}). Top-1 predictions "
        f"{same} to those of load() on {made.images} images; logits {logits_differ(made.logits_difference)}."
    )
    bars = [("quantized", [made.ms_quantized]), ("float32", [made.ms_float])]
    chart = panel(lambda width: row_chart(bars, Axis("milliseconds per batch"), width, bars=True))
    rows = [[name, decimals(values[0], 3)] for name, values in bars]
    figure = Figure([chart], Table(["network", "ms per batch"], rows), "times as a table")
    kept = [[layer.get("name") or "network", layer.get("reason", "")] for layer in made.layers_float]
    table = Table(["stays float in the file", "why"], kept, texts=(0, 1)) if kept else None
    file = Table(["model.onnx", ""], [["bytes", f"{made.bytes:,}"], ["opset", str(made.opset)]])
    return Section("Export", lead, [figure], table=table, details=[("the file", file)])


def circumstances_section(run: Run) -> Section:
    """Return the section about the origin of the run: network, recipe, seed, device, versions."""
    rows = list(_rows_of_circumstances(run))
    table = Table(["", ""], [list(row) for row in rows], texts=(0, 1))
    return Section(
        "Reproducing this run", "What must be the same for another run to give the same result.", table=table
    )


def _rows_of_circumstances(run: Run) -> Iterator[tuple[str, str]]:
    teacher = run.teacher
    yield "float network", teacher.source or NONE
    for name in ("weights", "revision", "sha256"):
        if value := getattr(teacher, name):
            yield f"its {name}", value
    if run.images:
        yield "images", ", ".join(run.images)
    yield "recipe", run.recipe.name
    yield "seed", str(run.seed)
    yield "device", run.device
    yield from run.versions.items()
    if run.commit:
        yield "commit", run.commit
