"""The table and the figure on bits by layer: both show the current results."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from intraq_cli.zoo import read_table, result_tables

ROOT = Path(__file__).parents[2]


def test_budget_table_and_figure_show_the_current_results(tmp_path):
    args = [sys.executable, ROOT / "zoo/budget.py", tmp_path / "budget.svg"]
    made = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    assert made.strip() in (ROOT / "zoo/README.md").read_text(encoding="utf-8")
    assert (tmp_path / "budget.svg").read_text() == (ROOT / "docs/images/budget.svg").read_text()


def test_every_result_has_a_point_in_the_budget_figure():
    picture = ElementTree.fromstring((ROOT / "docs/images/budget.svg").read_text())
    dots = [one for one in picture.iter() if "dot" in one.get("class", "") and len(one)]
    assert len(dots) == len(read_table(result_tables()["budget"]))


def test_bits_by_layer_fit_into_the_size_of_uniform_bits():
    sizes = {}
    for row in read_table(result_tables()["budget"]):
        sizes.setdefault((row["network"], row["size"]), {})[row["bits"] == "by layer"] = int(row["bytes"])
    pairs = [pair for pair in sizes.values() if len(pair) == 2]
    assert len(pairs) > 10
    for pair in pairs:
        assert 0.97 * pair[False] < pair[True] <= pair[False]
