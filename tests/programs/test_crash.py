"""Four kills at random moments; ``python -m tests.programs.crash`` makes as many as one likes."""

import json
import os
from pathlib import Path

from tests.fakes import process

ROOT = Path(__file__).parents[2]


def test_a_killed_job_goes_on_to_the_same_result(monkeypatch):
    # in a process of its own: it forks, and a fork of one with threads is no safe place
    monkeypatch.chdir(ROOT)
    given = ("--kills", "4", "--seed", "3")
    made = process.run("-m", "tests.programs.crash", *given, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    assert made.returncode == 0, made.stderr
    counts = json.loads(made.stdout)
    assert counts["kills"] >= 4
    assert counts["identical"] == counts["runs"]
    assert counts["left_behind"] == 0
