"""How well figures on synthetic images tell the drop on real ones, over all measured runs: the table in zoo/README.md.

python zoo/fidelity.py
"""

from bisect import bisect_left, bisect_right
from statistics import correlation

from intraq_cli.zoo import read_table, result_tables

Row = dict[str, str]

FIGURES = {"agreement": "agreement_synthetic", "divergence": "kl_synthetic"}
GROUPS = [
    ("agreement", "ResNet-20 at W4A4, all settings", "resnet20_cifar10", "W4A4"),
    ("agreement", "ResNet-20 at W3A3, all settings", "resnet20_cifar10", "W3A3"),
    ("agreement", "MobileNetV1, from ruined to lossless", "mobilenetv1_075", ""),
    ("divergence", "ResNet-20 at W4A4, all settings", "resnet20_cifar10", "W4A4"),
    ("divergence", "ResNet-20 at W3A3, all settings", "resnet20_cifar10", "W3A3"),
    ("divergence", "all networks, W2A2 to W8A8", "", ""),
]
"""Figure, what the runs are, network, bits; empty: all."""


def ranks(values: list[float]) -> list[float]:
    """Position of each value in order; equal ones share their mean position."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    return correlation(ranks(a), ranks(b))


def table(rows: list[Row]) -> str:
    """As Markdown: the number of runs and the correlation of each group."""
    lines = ["| figure | runs | how many | rank correlation with the drop |", "| --- | --- | --- | --- |"]
    for figure, what, network, bits in GROUPS:
        column = FIGURES[figure]
        both = [
            (float(row[column]), float(row["drop"]))
            for row in rows
            if row.get(column) and row["drop"]
            if network in ("", row["network"]) and bits in ("", row["bits"])
        ]
        found = rank_correlation(*map(list, zip(*both, strict=True)))
        lines.append(f"| {figure} | {what} | {len(both)} | {found:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tables = result_tables()
    print(table([row for name in ("measured", "path") for row in read_table(tables[name])]))
