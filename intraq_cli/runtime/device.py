"""Where the work is done."""

import ctypes
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from intraq_cli.errors import DeviceError, UsageError, interruption
from intraq_cli.graph.proof import same_answers
from intraq_cli.runtime.launch import launched
from intraq_cli.words import counted

ALIKE = 0.05
"""By how much logits may differ between layouts, relative to their spread: kernels round otherwise, TF32 most."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's ``malloc.h``."""
TRIM_THRESHOLD, MMAP_MAX = 128 * 1024, 65536
"""What they are at the start of a process."""


def choose_device(name: str = "auto", deterministic: bool = False) -> torch.device:
    """``auto``: CUDA where there is one, else the CPU; ``cpu``, ``cuda``, ``cuda:N``.

    Under torchrun each process takes the GPU of its own number.

    Args:
        name: the device.
        deterministic: what is done there must give the same bits at every run, see :func:`training_settings`.

    Raises:
        UsageError: the name is none of these, or does not go with what torchrun has started.
        DeviceError: there is no such device here.
    """
    if deterministic:  # cuBLAS reads it when it first works
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind == "mps":
        raise DeviceError("mps is not supported: it has no float64, which losses are summed in", "use --device cpu")
    if kind != "cuda" or (":" in name and not (index.isascii() and index.isdigit())):
        raise UsageError(f"no device {name!r}", "auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError("CUDA is not available here", "use --device cpu, or install a torch build for your driver")
    launch = launched()
    if index and launch.local_size > 1:
        raise UsageError(f"{launch.local_size} processes of this job would share {name}", "--device cuda, one GPU each")
    if launch.size > 1 and not index:
        if launch.local_rank is None:
            raise UsageError("LOCAL_RANK is not set, which says whose GPU is which", "start the job with torchrun")
        index = str(launch.local_rank)
    if index and int(index) >= torch.cuda.device_count():
        hint = "start one process for each GPU" if launch.size > 1 else "count from cuda:0"
        raise DeviceError(f"there is no cuda:{index}: {torch.cuda.device_count()} GPUs here", hint)
    return torch.device(f"cuda:{index}" if index else "cuda")


@contextmanager
def training_settings(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Within the block, the whole process is set up for many training steps alike.

    On a GPU, cuDNN finds its fastest convolutions by trying them, unless all has to be ``deterministic``: then it takes
    the same ones at every run, none that sums in any order, and torch refuses what it cannot do so. On a CPU, memory is
    kept.
    """
    cuda = device.type == "cuda"
    benchmark, strict = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = cuda and not deterministic
    if cuda and deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        with kept_memory(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if cuda and deterministic:
            torch.use_deterministic_algorithms(strict)


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Within the block, on a CPU, the C library keeps what tensors free for the next ones.

    Else it gives large ones back to the system at once: every layer allocates such, and new pages for each cost a tenth
    to a quarter of a training step, and more than half of a forward pass. Only glibc has this switch.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc:
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(M_MMAP_MAX, 0)
    try:
        yield
    finally:
        if libc:
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
            libc.mallopt(M_MMAP_MAX, MMAP_MAX)
            return_freed_memory()


def return_freed_memory() -> None:
    """Give back what is kept within :func:`kept_memory`: for a look at how much is free."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def place(network: nn.Module, device: torch.device | str, example: Tensor | None = None) -> nn.Module:
    """Move ``network`` to ``device``, its convolutions in channels-last memory: the fast layout on CPUs and GPUs alike.

    Layouts may differ in the last bit of a logit, so every network takes this one, wherever it comes from; but for one
    whose code looks at tensors as they lie in memory (``view``, ``as_strided``), which ``example`` shows.

    Args:
        network: in evaluation mode.
        device: where to.
        example: ``(B, C, H, W)``, on any device; a network of somebody else's code is tried on it. None: it is a graph.
    """
    network.to(device)
    if example is None:
        _lay_out(network, torch.channels_last)
        return network
    example = example.to(device)
    try:
        with torch.no_grad():
            as_written = network(example.clone())
        _lay_out(network, torch.channels_last)
        alike = same_answers(lambda _: as_written, network, example, ALIKE)
    except Exception as error:  # an error of the network's own is for those to say who look at it next
        if interruption(error):
            raise
        alike = False
    if not alike:
        _lay_out(network, torch.contiguous_format)
    return network


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    for tensor in chain(network.parameters(), network.buffers()):
        if tensor.dim() == 4:  # Module.to would try it on weights of 3-D convolutions too, and fail
            tensor.data = tensor.data.contiguous(memory_format=layout)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor``, which is on the CPU, on ``device``; without waiting for what a GPU still has to do."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def batches_on_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Images ``(B, C, H, W)`` of any type as a network takes them, contiguous: its code may look at the layout."""
    for batch in batches:
        yield batch.to(device, torch.float32, memory_format=torch.contiguous_format)


def fits(tensor: Tensor, device: torch.device | str) -> bool:
    """Whether a GPU can keep ``tensor`` for good: it takes at most half of the memory that is free there."""
    if torch.device(device).type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return tensor.nbytes <= free // 2


def describe_device(device: torch.device) -> str:
    """For a manifest: what the work ran on."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


def describe_processor() -> str:
    """The CPU's name, and whether it has dot products of 8-bit integers (VNNI), which integer networks live on."""
    has = torch.cpu.get_capabilities()
    name = str(has.get("cpu_name") or platform.processor() or platform.machine())
    if has.get("architecture") != "x86_64":
        return name
    return f"{name}, {'with' if has.get('avx512_vnni') or has.get('avx_vnni') else 'without'} VNNI"
