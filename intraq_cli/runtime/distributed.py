"""Several processes at one job, started by torchrun: they share the batches of stage 1 and of tuning."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from intraq_cli.errors import DeviceError, first_line


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the job; one alone needs no others."""

    rank: int = 0
    size: int = 1

    def gather(self, item: Any) -> list[Any]:
        """Everybody's item, in the order of the ranks; tensors come on the CPU as they were."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with _peer_failure():
            dist.all_gather_object(items, item)
        return items

    def broadcast_object(self, item: Any) -> Any:
        """The item of rank 0."""
        if self.size == 1:
            return item
        items = [item]
        with _peer_failure():
            dist.broadcast_object_list(items, 0)
        return items[0]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.size == 1:
            return
        with _peer_failure():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with their sums over the ranks, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _peer_failure():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


SINGLE_PROCESS = ProcessGroup()
PATIENCE = timedelta(days=1)
"""One may wait for another's whole batch; of one that dies, its closed sockets tell."""


def launched_processes() -> ProcessGroup:
    """What torchrun says in the environment; alone where it says nothing."""
    return ProcessGroup(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Within the block, the processes that torchrun started can exchange tensors: gloo on CPUs, nccl on GPUs.

    Raises:
        DeviceError: the others cannot be reached.
    """
    ranks = launched_processes()
    if ranks.size == 1:
        yield ranks
        return
    # its functions' defaults hold the group there is when it is imported, and a group that outlives the block can end
    # the process with SIGABRT at its exit (pytorch/pytorch#190489)
    import torch.distributed.nn

    with _peer_failure():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device, timeout=PATIENCE)
        else:
            dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


@contextmanager
def _peer_failure() -> Iterator[None]:
    """An exchange that fails means that another process is gone: gloo and nccl say so in several ways."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (dist.DistError, RuntimeError, ValueError) as error:
        line = first_line(error)[:200]
        raise DeviceError(f"another process of this job is gone: {line}", "start the job again: it goes on") from error


__all__ = ["SINGLE_PROCESS", "ProcessGroup", "launched_processes", "process_group"]
