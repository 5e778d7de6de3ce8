"""Memory that is kept between steps, and given back before it is counted."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from intraq_cli.device import ready_for_steps
from intraq_cli.memory import images_that_fit

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

cpu = torch.device("cpu")
ready_for_steps(cpu)
before = resident()
tensors = [torch.ones(2**24) for _ in range(4)]
del tensors
kept = resident() - before
images_that_fit(torch.nn.Conv2d(3, 4, 3), (3, 8, 8), cpu, "tuning")
print(kept, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc: how much is resident is not known")
def test_what_is_kept_does_not_count_as_used():
    made = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, after = map(float, made.stdout.split())  # MiB
    if kept < 200:
        pytest.skip("this C library keeps nothing")
    assert after < 60
