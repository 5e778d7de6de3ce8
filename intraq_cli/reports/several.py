"""Build the report page of several runs, side by side."""

from collections.abc import Callable, Sequence

from intraq_cli.reports.charts import Axis, Series, row_chart, shortened, xy_chart
from intraq_cli.reports.comparison import comparison, data_key, noise_cells, table_of
from intraq_cli.reports.folder import Record
from intraq_cli.reports.layout import Figure, Page, Section, Table, panel
from intraq_cli.reports.scale import number
from intraq_cli.results import ComparisonResult
from intraq_cli.words import byte_unit, file_size

MOST_ROWS = 16
"""Maximum number of batch norms in the chart of differences."""
STYLES = 4
"""Number of styles of series; all further series have the last style."""


def page(records: Sequence[Record]) -> Page:
    """Return the page that compares the runs; sections without data are left out."""
    found = comparison(records, [record.name for record in records])
    names, rows = table_of(found)
    every = Section("Side by side", table=Table(["", *names], rows))
    sections = [every, _size(found), _noise(found), _differences(found)]
    subtitle = "side by side"
    if not found.same_model:
        subtitle += "; the float weights differ, so agreement and divergence are not comparable"
    return Page(
        title=" and ".join(names) if len(names) < 3 else f"{len(names)} checkpoints",
        subtitle=subtitle,
        verdict=_verdict(found),
        facts=[],
        sections=[section for section in sections if section is not None],
    )


def _verdict(found: ComparisonResult) -> str:
    """Name the smallest and the best checkpoints, as far as known; values that print the same are ties."""
    sizes = [(one.bytes_quantized, one.name) for one in found.checkpoints]
    smallest, size, alone = _best(sizes, min, file_size)
    text = f"The smallest {alone} {smallest} with {size}" if alone else f"All have the same size, {size}"
    key, values = _quality(found)
    known = [(value, one.name) for value, one in zip(values, found.checkpoints, strict=True) if value is not None]
    if len(known) < 2:
        return f"{text}."
    if key.startswith("top-1"):
        names, best, alone = _best(known, max, lambda value: f"{value:.2f} %")
        data = key.removesuffix(", %")
        return f"{text}; " + (
            f"the best {data} is that of {names}, {best}." if alone else f"{names} have the same {data}, {best}."
        )
    names, least, alone = _best(known, min, lambda value: f"{number(value)} nats")
    if not alone:
        return f"{text}; {names} are equally close to their float networks, at a divergence of {least}."
    whose = "its float network" if alone == "is" else "their float networks"
    return f"{text}; the closest to {whose} {alone} {names}, at a divergence of {least}."


def _best(
    figures: Sequence[tuple[float, str]], best: Callable[..., float], told: Callable[[float], str]
) -> tuple[str, str, str]:
    """Return the names of the best, their value as text, and ``is`` or ``are`` (empty if all are equal)."""
    figure = told(best(value for value, _ in figures))
    names = [name for value, name in figures if told(value) == figure]
    alone = "" if len(names) == len(figures) else "is" if len(names) == 1 else "are"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])), figure, alone


def _quality(found: ComparisonResult) -> tuple[str, list[float | None]]:
    """Return name and values to compare by: accuracy on common data, else divergence; name empty without either."""
    shared = None
    for one in found.checkpoints:
        keys = [data_key(row) for row in one.evaluations]
        shared = keys if shared is None else [key for key in shared if key in keys]
    if shared:
        rows = [next(row for row in one.evaluations if data_key(row) == shared[-1]) for one in found.checkpoints]
        return f"top-1 on {shared[-1]}, %", [row["top1"] for row in rows]
    divergences = [one.kl for one in found.checkpoints]
    return ("divergence, nats" if any(value is not None for value in divergences) else ""), divergences


def _size(found: ComparisonResult) -> Section | None:
    key, values = _quality(found)
    places = [
        (one.bytes_quantized, value, one.name)
        for one, value in zip(found.checkpoints, values, strict=True)
        if value is not None
    ]
    if len(places) < 2:
        return None
    unit, name = byte_unit(max(place[0] for place in places))
    series = [
        Series([(count / unit, value)], f"s{min(k, STYLES - 1)}", line=False, names=[shortened(label, 30)])
        for k, (count, value, label) in enumerate(places)
    ]
    what = "accuracy" if key.startswith("top-1") else "divergence"
    chart = panel(lambda width: xy_chart(series, Axis(f"size, {name}"), Axis(key), width))
    rows = [[label, file_size(count), f"{value:.4g}"] for count, value, label in places]
    figure = Figure([chart], Table(["checkpoint", "size", key], rows), "sizes as a table")
    return Section(f"Size against {what}", figures=[figure])


def _noise(found: ComparisonResult) -> Section | None:
    if len(found.noise) < 2:
        return None
    names = [one.name for one in found.checkpoints]
    series = []
    for k in reversed(range(len(names))):
        places = [(float(at), row.values[k]) for at, row in enumerate(found.noise, 1)]
        held = [(at, value) for at, value in places if value is not None]
        if held:
            series.append(Series(held, f"s{min(k, STYLES - 1)}", dots=len(held) <= 40))
    x, y = Axis("batch norm, from the image to the classes", tight=True), Axis("signal to noise, dB")
    chart = panel(lambda width: xy_chart(series, x, y, width), legend=_legend(found))
    rows = [[str(k), *noise_cells(row)] for k, row in enumerate(found.noise, 1)]
    table = Table(["", "batch norm", *names, "spread"], rows, texts=(1,))
    lead = "Signal-to-quantization-noise ratio at the output of every batch norm, on each run's held-out images."
    return Section("Quantization noise by depth", lead, [Figure([chart], table, f"{len(rows)} batch norms as a table")])


def _differences(found: ComparisonResult) -> Section | None:
    worst = sorted(found.noise, key=lambda row: -row.spread)[:MOST_ROWS]
    if not worst or not worst[0].spread:
        return None
    names = [one.name for one in found.checkpoints]
    shown = [(row.name, row.values[:STYLES]) for row in worst]
    chart = panel(lambda width: row_chart(shown, Axis("signal to noise, dB"), width), legend=_legend(found))
    table = Table(["batch norm", *names, "spread"], [noise_cells(row) for row in worst])
    figure = Figure([chart], table, "differences as a table")
    return Section("Where they differ most", "Signal to noise in dB, the largest differences first.", [figure])


def _legend(found: ComparisonResult) -> list[tuple[int, str]]:
    """Return style and name of the checkpoints whose noise was measured."""
    known = [k for k in range(len(found.checkpoints)) if any(row.values[k] is not None for row in found.noise)]
    return [(min(k, STYLES - 1), found.checkpoints[k].name) for k in known]
