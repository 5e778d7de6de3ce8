"""Micro-batches: as many images at once as fit into memory; accumulated gradients equal those of the full batch."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, fx

from intraq_cli.events import Report, Warned, silent
from intraq_cli.graph.nodes import calls, numel
from intraq_cli.runtime.device import return_freed_memory
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.memory import free_memory

MEMORY_SHARE = 0.5
"""Share of the free memory that a stage plans to use."""
OUT_OF_MEMORY = (
    "can't allocate memory",  # torch, on a CPU
    "not enough memory",  # the same, on Windows
    "CUDA error: out of memory",
    "Cuda failure 'out of memory'",  # NCCL
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "_ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, or HOST_
    "unable to find an engine to execute",  # cuDNN: no memory is left for any engine's workspace
)
"""Texts in out-of-memory errors other than :class:`torch.OutOfMemoryError`."""
WORK = {"synthesis": 2.0, "tuning": 5.0, "calibration": 0.75}
"""Memory of a step, relative to what the float network saves for its backward pass. Measured for calibration, on
seven networks and 128 images: 0.25 to 0.7."""
SAME_RESULT = "which does not change the result"

Result = TypeVar("Result")


class MicroBatches:
    """Runs work in micro-batches, and halves their size when memory runs out.

    Args:
        size: initial number of images at once; None: all.
        report: receives a warning when the size is halved.
        outcome: end of that warning: what the smaller size means for the result.
    """

    def __init__(self, size: int | None = None, report: Report = silent, outcome: str = SAME_RESULT) -> None:
        self.size, self.report, self.outcome = size, report, outcome

    def run(self, work: Callable[[int], Result], images: int) -> Result:
        """Return ``work(size)``, retried with half the size when memory runs out; ``work`` must start over each time.

        Raises:
            RuntimeError, MemoryError: memory is not enough for a single image, or ``work`` fails otherwise.
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
            smaller = f"continuing with {self.size}, {self.outcome}"
            self.report(Warned(f"out of memory with {size} images at once: {smaller}"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch and NVIDIA's libraries report this in several ways."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in OUT_OF_MEMORY)


def largest_micro_batch(
    network: fx.GraphModule, image_shape: tuple[int, int, int], device: torch.device, stage: str
) -> int | None:
    """Return how many images a step of ``stage`` can process at once; None: all, until memory runs out.

    None is returned on a GPU, which raises an error when it is full, and if the free memory is not known. On a CPU
    there is no error to catch: the system kills a process that takes too much.

    ``network`` is a captured graph. In it, code of the network under ``torch.no_grad()`` saves tensors for gradients
    too.
    """
    if device.type != "cpu":
        return None
    kept: list[torch.UntypedStorage] = []

    def note(tensor: Tensor) -> None:  # not the tensor: an operation that held its own output would never be freed
        kept.append(tensor.untyped_storage())

    x = torch.zeros(2, *image_shape, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda nothing: nothing):
        out = network(x)
    own = {p.untyped_storage().data_ptr() for p in [*network.parameters(), *network.buffers()]}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in kept}
    each = sum(size for pointer, size in sizes.items() if pointer not in own) / len(out)
    # zero if no gradient reaches the image: layers will still save their inputs during tuning
    each = each or sum(out.element_size() * numel(call) for call in calls(network) if "shape" in call.meta)
    del x, out
    kept.clear()
    return_freed_memory()
    share = MEMORY_SHARE * free_memory() / launched().local_size
    return None if math.isinf(share) else max(1, int(share / (WORK[stage] * each)))
