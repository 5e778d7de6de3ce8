"""What bits by layer buy at one size: the table in zoo/README.md and the picture in README.md, of results/budget.csv.

python zoo/budget.py docs/images/budget.svg
"""

import sys
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from intraq_cli.reports.charts import Axis, Series, xy_chart
from intraq_cli.zoo import read_table, result_tables

Row = dict[str, str]

NAMES = {
    "resnet20_cifar10": "ResNet-20, CIFAR-10",
    "mobilenetv1_075": "MobileNetV1 0.75",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mcunet_256kb": "MCUNet 256 kB",
}
WIDTH, HEIGHT, HEAD, GAP = 400, 230, 52, 20
"""Of a panel, and what is above and between them, in pixels."""
STYLE = """
svg { --ink: #1d2125; --soft: #667079; --rule: #e2e5e8; --accent: #0a66c2; --other: #8a949e; --paper: #fff }
@media (prefers-color-scheme: dark) {
svg { --ink: #e7eaed; --soft: #98a2ac; --rule: #2d3339; --accent: #66aefc; --other: #7f8993; --paper: #0d1117 } }
text { font: 12px system-ui, sans-serif; fill: var(--ink) } .tick, .label { fill: var(--soft) }
.title { font-size: 14px; font-weight: 600 }
.grid { stroke: var(--rule) } .axis { stroke: var(--other) } .path { fill: none; stroke-width: 1.75 }
.path.s0 { stroke: var(--accent) } .path.s1 { stroke: var(--other) }
.dot.s0 { fill: var(--accent) } .dot.s1 { fill: var(--other) }
"""


def by_network(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by network, in the order of :data:`NAMES`, each by size."""
    ordered = sorted(rows, key=lambda row: ([*NAMES].index(row["network"]), int(row["bytes"])))
    return {name: list(found) for name, found in groupby(ordered, key=lambda row: row["network"])}


def table(rows: list[Row]) -> str:
    """As Markdown: drop and divergence at each size, with the same bits for all layers and with bits by layer."""
    head = "| network, W\\*A8, not tuned | bytes of weights | bits of all | drop | by layer | divergence | by layer |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for network, found in by_network(rows).items():
        for size, pair in groupby(reversed(found), key=lambda row: row["size"]):
            known = {row["bits"] == "by layer": row for row in pair}
            one, other = known.get(False), known[True]
            cells = [f"{NAMES[network]} (float {other['float_top1']})", f"{int(other['bytes']):,}", size]
            cells += [one["drop"] if one else "", other["drop"], one["divergence"] if one else "", other["divergence"]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(rows: list[Row]) -> str:
    """As SVG: drop over size, a panel for each network."""
    panels = []
    for k, (network, found) in enumerate(by_network(rows).items()):
        series = []
        for by_layer, style in ((False, "s1"), (True, "s0")):
            own = [row for row in found if (row["bits"] == "by layer") == by_layer]
            series.append(Series([(int(row["bytes"]) / 1e6, float(row["drop"])) for row in own], style, dots=True))
        chart = xy_chart(series, Axis("MB of weights"), Axis("drop, points"), WIDTH, HEIGHT)
        x, y = k % 2 * (WIDTH + GAP), k // 2 * (HEIGHT + HEAD) + 2 * GAP
        placed = Markup('<text x="{}" y="{}" class="title">{}</text><svg x="{}" y="{}" width="{}" height="{}"')
        panels.append(placed.format(x, y + 14, NAMES[network], x, y + 24, WIDTH, HEIGHT) + chart.removeprefix("<svg"))
    width, height = 2 * WIDTH + GAP, 2 * (HEIGHT + HEAD) + 2 * GAP
    legend = Markup(
        '<circle cx="6" cy="10" r="4" class="dot s0"/><text x="16" y="14">bits by layer</text>'
        '<circle cx="116" cy="10" r="4" class="dot s1"/><text x="126" y="14">the same bits for all layers</text>'
    )
    label = "Points of accuracy lost over size of the weights, four networks"
    whole = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-label="{}">'
    whole += "<style>{}</style>{}{}</svg>\n"
    return whole.format(width, height, label, STYLE, legend, Markup("").join(panels))


if __name__ == "__main__":
    measured = read_table(result_tables()["budget"])
    print(table(measured))
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(picture(measured), encoding="utf-8")
