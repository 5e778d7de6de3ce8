"""Four kills at random moments; ``python -m tests.programs.crash --kills N`` makes more."""

import json
import os
from pathlib import Path

from tests.fakes import process

ROOT = Path(__file__).parents[2]


def test_killed_job_resumes_to_an_identical_checkpoint(monkeypatch):
    # in a separate process, as it forks, which is unsafe in a process with threads
    monkeypatch.chdir(ROOT)
    given = ("--kills", "4", "--seed", "3")
    made = process.run("-m", "tests.programs.crash", *given, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    assert made.returncode == 0, made.stderr
    counts = json.loads(made.stdout)
    assert counts["kills"] >= 4
    assert counts["identical"] == counts["runs"]
    assert counts["left_behind"] == 0
