"""Several processes that work on one job, started by torchrun: they share the batches of stage 1 and of tuning."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from intraq_cli.errors import DeviceError, first_line
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.micro_batches import is_out_of_memory

START_TIMEOUT = timedelta(minutes=10)
"""Time for all processes of the job to find one another."""
PEER_TIMEOUT = timedelta(days=1)
"""A process may have to wait for another's whole batch; if one dies, gloo notices at once by its sockets."""
NCCL_TIMEOUT = timedelta(minutes=10)
"""NCCL does not notice that a process dies. An exchange starts only after a gloo barrier of all processes."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a job, as seen by one of them; by default, a single process."""

    rank: int = 0
    size: int = 1
    nccl: "dist.ProcessGroup | None" = None
    """NCCL group that exchanges tensors on GPUs; None: gloo exchanges everything."""

    def gather(self, item: Any) -> list[Any]:
        """Return the items of all ranks, in the order of the ranks. Pass tensors on the CPU."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with _named_failure(self.rank):
            dist.all_gather_object(items, item)
        return items

    def broadcast_object(self, item: Any) -> Any:
        """Return the item of rank 0 on all ranks."""
        if self.size == 1:
            return item
        items = [item]
        with _named_failure(self.rank):
            dist.broadcast_object_list(items, 0)
        return items[0]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.size == 1:
            return
        with self._exchange():
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self.nccl)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with their sums over the ranks, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._exchange():
            dist.all_reduce(flat, group=self.nccl)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Wait for all processes before the block, so that NCCL does not wait for one that is gone."""
        with _named_failure(self.rank):
            if self.nccl is not None:
                dist.barrier()
            yield


SINGLE_PROCESS = ProcessGroup()
GROUPS = itertools.count()
"""Numbers the groups that this process creates; the numbers are the same in all processes of a job."""


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Within the block, the processes that torchrun started can exchange tensors: by gloo on CPUs, by NCCL on GPUs.

    Raises:
        UsageError: torchrun's environment variables are invalid.
        DeviceError: the other processes cannot be reached, or the caller already has a process group.
    """
    launch = launched()
    if launch.size == 1:
        yield SINGLE_PROCESS
        return
    if dist.is_initialized():
        raise DeviceError(
            f"this process already has a process group ({dist.get_backend()}, {dist.get_world_size()} processes)",
            "call torch.distributed.destroy_process_group() first: intraq creates its own",
        )
    # this module's default arguments keep a reference to the group that exists when it is imported; a group that
    # outlives the block can end the process with SIGABRT at exit (pytorch/pytorch#190489), so import it before
    import torch.distributed.nn  # noqa: F401

    try:
        with _named_failure(launch.rank, starting=True):
            nccl = _start(device)
        yield ProcessGroup(launch.rank, launch.size, nccl)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _start(device: torch.device) -> Any:
    """Create the default group (gloo); for GPUs, also create an NCCL group and return it."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=START_TIMEOUT))
    # torchrun's store outlives a group, and the next group (another seed) must not read the addresses of the last
    store = torch.distributed.PrefixStore(f"intraq-{next(GROUPS)}", store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PEER_TIMEOUT)
    if device.type != "cuda":
        return None
    torch.cuda.set_device(device)
    return dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT, device_id=device)


START_HINT = "start all processes with torchrun, or set MASTER_ADDR and MASTER_PORT for each of them"
FAILURES = (
    (r"Duplicate GPU", "processes of this job share a GPU", "use --device cuda, which gives each its own"),
    (
        r"CUDA error|Cuda failure",
        "the GPU of process {rank} failed",
        "check `nvidia-smi`, then start the job again: it resumes",
    ),
    (r"(?i)timed? ?out", "another process of this job does not answer", "start the job again: it resumes"),
    (
        r"gloo|NCCL|(?i:connection|socket|store)",
        "another process of this job has ended",
        "start the job again: it resumes",
    ),
)
"""Patterns in errors of gloo, NCCL and CUDA, in the order in which they are tried; their meaning; and a hint."""


@contextmanager
def _named_failure(rank: int, starting: bool = False) -> Iterator[None]:
    """Within the block, turn errors of a failed exchange into messages that name the cause.

    Raises:
        DeviceError: in place of errors from gloo, NCCL and CUDA. Out-of-memory errors and bugs are re-raised unchanged.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        line = first_line(error)[:200]
        if starting and isinstance(error, (dist.DistError, ValueError)):
            raise DeviceError(f"the processes of this job cannot connect to one another: {line}", START_HINT) from error
        for pattern, message, hint in FAILURES:
            if re.search(pattern, str(error)):
                raise DeviceError(f"{message.format(rank=rank)}: {line}", hint) from error
        raise
