"""Free memory, and the peak memory of an operation."""

import math
import os
from contextlib import suppress
from pathlib import Path

import torch

PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
STATUS, CLEAR = PROC / "self/status", PROC / "self/clear_refs"


def start_peak(device: torch.device) -> None:
    """Reset the peak that :func:`peak_memory` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        CLEAR.write_text("5")  # what is resident now becomes the peak


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: of tensors on a GPU, else of the process's resident memory; 0 if it is not known.

    Resident memory is only known on Linux (``/proc``). If its peak cannot be reset, it is the peak since process start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, ValueError):
        return 0
    return 1024 * int(line.split()[1])


def free_memory() -> float:
    """Return the free memory in bytes: of the machine, or of this process's control groups (version 2) if that is less.

    If the system does not report free memory (macOS), return the machine's total memory; infinity if unknown.
    """
    try:
        free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows
        free = math.inf
    try:
        free = 1024 * _counts(PROC / "meminfo")["MemAvailable:"]
        own = next(line[3:] for line in (PROC / "self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = CONTROL_GROUPS / own.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(CONTROL_GROUPS) and (folder / "memory.max").is_file():
                free = min(free, _left_in(folder))
    except (OSError, ValueError, KeyError, StopIteration):  # not Linux, or no such group: use what is known
        pass
    return free


def _left_in(group: Path) -> float:
    """Return the bytes left up to a control group's limit; inactive file cache counts as free."""
    limit = float((group / "memory.max").read_text().strip().replace("max", "inf"))
    used = int((group / "memory.current").read_text()) - _counts(group / "memory.stat").get("inactive_file", 0)
    return limit - used


def _counts(path: Path) -> dict[str, int]:
    """Parse a file whose lines are a name and a number."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}
