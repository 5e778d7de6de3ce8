"""The most memory that a piece of work takes."""

from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_peak(device: torch.device) -> None:
    """From here on :func:`peak_memory` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        CLEAR.write_text("5")  # what is resident now becomes the peak


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU what tensors took there, else what of the process was in memory; 0 where it is not known.

    That is but where there is Linux's ``/proc``; where its peak cannot be reset, it is that of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, ValueError):
        return 0
    return 1024 * int(line.split()[1])
