"""Four kills at random moments; ``python -m tests.programs.crash`` makes as many as one likes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_killed_job_goes_on_to_the_same_result():
    # in a process of its own: it forks, and a fork of one with threads is no safe place
    made = subprocess.run(
        [sys.executable, "-m", "tests.programs.crash", "--kills", "4", "--seed", "3"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    counts = json.loads(made.stdout)
    assert counts["kills"] >= 4
    assert counts["identical"] == counts["runs"]
    assert counts["left_behind"] == 0
