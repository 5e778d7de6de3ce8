"""The table on how reliable metrics on synthetic images are: its arithmetic, and that the README is current."""

import subprocess
import sys
from pathlib import Path

import pytest

from zoo import fidelity

ZOO = Path(__file__).parents[2] / "zoo"


def test_rank_correlation_equals_spearmans():
    assert fidelity.ranks([3.0, 1.0, 3.0, 2.0]) == [2.5, 0.0, 2.5, 1.0]
    assert fidelity.rank_correlation([1.0, 2.0, 3.0], [1.0, 10.0, 1000.0]) == pytest.approx(1)
    # Spearman without ties: 1 - 6 sum d^2 / (n (n^2 - 1))
    assert fidelity.rank_correlation([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(1 - 6 * 4 / (4 * 15))


def test_zoo_readme_has_the_table_of_the_current_results():
    made = subprocess.run([sys.executable, ZOO / "fidelity.py"], capture_output=True, text=True, check=True).stdout
    assert made.strip() in (ZOO / "README.md").read_text(encoding="utf-8")
