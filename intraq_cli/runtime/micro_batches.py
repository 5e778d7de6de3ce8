"""Micro-batches: as many images at once as fit; gradients are accumulated, and results equal the full batch's."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, fx

from intraq_cli.events import Report, Warned, silent
from intraq_cli.graph.nodes import calls, numel
from intraq_cli.runtime.device import return_freed_memory
from intraq_cli.runtime.launch import launched

MEMORY_SHARE = 0.5
"""Of the free memory that one stage plans with."""
OUT_OF_MEMORY = (
    "can't allocate memory",  # torch, on a CPU
    "not enough memory",  # the same, on Windows
    "CUDA error: out of memory",
    "Cuda failure 'out of memory'",  # NCCL
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "_ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, or HOST_
    "unable to find an engine to execute",  # cuDNN: no memory is left for the workspace of any
)
"""What errors say that are no :class:`torch.OutOfMemoryError`."""
PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
WORK = {"synthesis": 2.0, "tuning": 5.0, "calibration": 1.5}
"""Memory of a step, relative to what the float network keeps for its gradient."""
SAME_RESULT = "with the same result"

Result = TypeVar("Result")


class MicroBatches:
    """Runs work in micro-batches, and halves them where they do not fit.

    Args:
        size: images at once to begin with; None: all.
        report: told when micro-batches get smaller.
        outcome: what that means.
    """

    def __init__(self, size: int | None = None, report: Report = silent, outcome: str = SAME_RESULT) -> None:
        self.size, self.report, self.outcome = size, report, outcome

    def run(self, work: Callable[[int], Result], images: int) -> Result:
        """``work(size)``, again with half the size where it runs out of memory; it must start over each time.

        Raises:
            RuntimeError, MemoryError: a single image is too much.
        """
        while True:
            size = min(self.size or images, images)
            try:
                return work(size)
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.size = -(-size // 2)
            torch.cuda.empty_cache()
            smaller = f"going on with {self.size}, {self.outcome}"
            self.report(Warned(f"out of memory with {size} images at once: {smaller}"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch and NVIDIA's libraries say so in several ways."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in OUT_OF_MEMORY)


def largest_micro_batch(
    network: fx.GraphModule, image_shape: tuple[int, int, int], device: torch.device, stage: str
) -> int | None:
    """Images that a step of ``stage`` can take at once; None: all, until memory runs out.

    None is returned on a GPU, which says when it is full, and where the free memory is not known. A CPU does not say
    it: the system kills a process that takes too much.

    ``network`` is a captured graph, in which what the network's code does under ``torch.no_grad()``, too, keeps what
    gradients need.
    """
    if device.type != "cpu":
        return None
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros(2, *image_shape, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = network(x)  # alive until all is counted
        own = {p.untyped_storage().data_ptr() for p in [*network.parameters(), *network.buffers()]}
        each = sum(size for pointer, size in kept.items() if pointer not in own) / len(out)
    # nothing where no gradient reaches the image: layers keep their inputs all the same once they are tuned
    each = each or sum(out.element_size() * numel(call) for call in calls(network) if "shape" in call.meta)
    del x, out
    return_freed_memory()
    share = MEMORY_SHARE * free_memory() / launched().local_size
    return None if math.isinf(share) else max(1, int(share / (WORK[stage] * each)))


def free_memory() -> float:
    """Bytes that the processes here may still take: of the machine, or of the control groups (version 2) they run in.

    Where the system does not say what is free (macOS), all memory of the machine; infinity where that is not known.
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
    except (OSError, ValueError, KeyError, StopIteration):  # no Linux, or no such group: what is known counts
        pass
    return free


def _left_in(group: Path) -> float:
    """Bytes up to the limit of a control group; files that are cached make room where it is needed."""
    limit = float((group / "memory.max").read_text().strip().replace("max", "inf"))
    used = int((group / "memory.current").read_text()) - _counts(group / "memory.stat").get("inactive_file", 0)
    return limit - used


def _counts(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}
