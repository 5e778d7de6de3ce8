"""Several processes at one job, started by torchrun: they share the batches of stage 1 and of tuning."""

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
"""For all processes of the job to find one another."""
PEER_TIMEOUT = timedelta(days=1)
"""One may wait for another's whole batch; gloo's sockets tell at once of a process that dies meanwhile."""
NCCL_TIMEOUT = timedelta(minutes=10)
"""NCCL does not notice that a process dies; an exchange begins when gloo has brought all processes to it."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the job; one alone needs no others."""

    rank: int = 0
    size: int = 1
    nccl: "dist.ProcessGroup | None" = None
    """What exchanges tensors on GPUs; None: gloo exchanges everything."""

    def gather(self, item: Any) -> list[Any]:
        """Everybody's item, in the order of the ranks; tensors come on the CPU as they were."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with _named_failure(self.rank):
            dist.all_gather_object(items, item)
        return items

    def broadcast_object(self, item: Any) -> Any:
        """The item of rank 0."""
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
        """Within the block, all processes are there, so that NCCL need not wait for one that is gone."""
        with _named_failure(self.rank):
            if self.nccl is not None:
                dist.barrier()
            yield


SINGLE_PROCESS = ProcessGroup()
GROUPS = itertools.count()
"""Numbers of the groups that this process has made: the same in all processes of a job."""


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Within the block, the processes that torchrun started can exchange tensors: gloo on CPUs, nccl on GPUs.

    Raises:
        UsageError: what the environment says makes no sense.
        DeviceError: the others cannot be reached, or the caller has made a process group of its own.
    """
    launch = launched()
    if launch.size == 1:
        yield SINGLE_PROCESS
        return
    if dist.is_initialized():
        raise DeviceError(
            f"this process has a process group already ({dist.get_backend()}, {dist.get_world_size()} processes)",
            "call dist.destroy_process_group() first: intraq makes its own",
        )
    # its functions' defaults hold the group there is when it is imported, and a group that outlives the block can end
    # the process with SIGABRT at its exit (pytorch/pytorch#190489)
    import torch.distributed.nn  # noqa: F401

    try:
        with _named_failure(launch.rank, starting=True):
            nccl = _start(device)
        yield ProcessGroup(launch.rank, launch.size, nccl)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _start(device: torch.device) -> Any:
    """Make the default group (gloo), and one of nccl for tensors on GPUs."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=START_TIMEOUT))
    # the store of torchrun outlives a group, and the next one (another seed) must not read the addresses of the last
    store = torch.distributed.PrefixStore(f"intraq-{next(GROUPS)}", store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PEER_TIMEOUT)
    if device.type != "cuda":
        return None
    torch.cuda.set_device(device)
    return dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT, device_id=device)


START_HINT = "start all processes with torchrun, or set MASTER_ADDR and MASTER_PORT for each of them"
FAILURES = (
    (r"Duplicate GPU", "processes of this job share a GPU", "--device cuda gives each its own"),
    (
        r"CUDA error|Cuda failure",
        "the GPU of process {rank} failed",
        "look at `nvidia-smi`; then start again: it goes on",
    ),
    (r"(?i)timed? ?out", "another process of this job does not answer", "start the job again: it goes on"),
    (
        r"gloo|NCCL|(?i:connection|socket|store)",
        "another process of this job is gone",
        "start the job again: it goes on",
    ),
)
"""What gloo, NCCL and CUDA say, in the order in which to look for it; what it means; and what to do."""


@contextmanager
def _named_failure(rank: int, starting: bool = False) -> Iterator[None]:
    """Within the block, an exchange that fails is an error that says whose fault it is.

    Raises:
        DeviceError: in place of what gloo, NCCL and CUDA raise; running out of memory, and bugs, stay what they are.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        line = first_line(error)[:200]
        if starting and isinstance(error, (dist.DistError, ValueError)):
            raise DeviceError(f"the processes of this job do not find one another: {line}", START_HINT) from error
        for pattern, message, hint in FAILURES:
            if re.search(pattern, str(error)):
                raise DeviceError(f"{message.format(rank=rank)}: {line}", hint) from error
        raise
