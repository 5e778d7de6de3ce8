"""Peak memory of an operation."""

from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
