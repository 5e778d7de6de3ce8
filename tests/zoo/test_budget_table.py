"""The table and the picture of what bits by layer buy: both show today's rows."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from intraq_cli.zoo import read_table, result_tables

ROOT = Path(__file__).parents[2]


def test_the_table_and_the_picture_are_those_of_todays_rows(tmp_path):
    args = [sys.executable, ROOT / "zoo/budget.py", tmp_path / "budget.svg"]
    made = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    assert made.strip() in (ROOT / "zoo/README.md").read_text(encoding="utf-8")
    assert (tmp_path / "budget.svg").read_text() == (ROOT / "docs/images/budget.svg").read_text()


def test_every_row_has_a_point_in_the_picture():
    picture = ElementTree.fromstring((ROOT / "docs/images/budget.svg").read_text())
    dots = [one for one in picture.iter() if "dot" in one.get("class", "") and len(one)]
    assert len(dots) == len(read_table(result_tables()["budget"]))


def test_a_choice_by_layer_is_no_larger_than_the_same_bits_for_all():
    sizes = {}
    for row in read_table(result_tables()["budget"]):
        sizes.setdefault((row["network"], row["size"]), {})[row["bits"] == "by layer"] = int(row["bytes"])
    pairs = [pair for pair in sizes.values() if len(pair) == 2]
    assert len(pairs) > 10
    for pair in pairs:
        assert 0.97 * pair[False] < pair[True] <= pair[False]
