"""Devices: choosing one, its settings, and moving networks and tensors to it."""

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
from intraq_cli.graph.proof import same_logits
from intraq_cli.runtime.launch import launched
from intraq_cli.words import counted

ALIKE = 0.05
"""Allowed difference of logits between layouts, relative to their spread: kernels round differently, TF32 most."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Option numbers from glibc's ``malloc.h``."""
TRIM_THRESHOLD, MMAP_MAX = 128 * 1024, 65536
"""Their default values."""


def choose_device(name: str = "auto", deterministic: bool = False) -> torch.device:
    """Return the device for ``auto`` (CUDA if available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Under torchrun each process uses the GPU with its local rank.

    Args:
        name: the device.
        deterministic: results must be bit-identical in every run, see :func:`training_settings`.

    Raises:
        UsageError: the name is none of these, or conflicts with the processes that torchrun has started.
        DeviceError: this machine has no such device.
    """
    if deterministic:  # cuBLAS reads it at its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind == "mps":
        raise DeviceError("mps is not supported: it has no float64, in which losses are summed", "use --device cpu")
    if kind != "cuda" or (":" in name and not (index.isascii() and index.isdigit())):
        raise UsageError(f"there is no device {name!r}", "use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError("CUDA is not available here", "use --device cpu, or install a torch build for your driver")
    launch = launched()
    if index and launch.local_size > 1:
        raise UsageError(
            f"{launch.local_size} processes of this job would share {name}",
            "use --device cuda, which gives each its own GPU",
        )
    if launch.size > 1 and not index:
        if launch.local_rank is None:
            raise UsageError(
                "LOCAL_RANK, which assigns a GPU to each process, is not set", "start the job with torchrun"
            )
        index = str(launch.local_rank)
    if index and int(index) >= torch.cuda.device_count():
        hint = "start one process per GPU" if launch.size > 1 else "GPUs are numbered from cuda:0"
        raise DeviceError(
            f"there is no cuda:{index}: this machine has {counted(torch.cuda.device_count(), 'GPU')}", hint
        )
    return torch.device(f"cuda:{index}" if index else "cuda")


@contextmanager
def training_settings(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Within the block, the whole process is set up for many similar training steps.

    On a GPU, cuDNN benchmarks its convolution algorithms to find the fastest. If ``deterministic``, it uses the same
    deterministic ones in every run instead, and torch refuses operations without a deterministic implementation. On a
    CPU, freed memory is kept for reuse.
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
    """Within the block, on a CPU, the C library keeps the memory of freed tensors for the next ones.

    By default it returns large blocks to the system at once. Every layer allocates such blocks, and the new pages take
    a tenth to a quarter of the time of a training step, and over half of a forward pass. Only glibc can be set so.
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
    """Return the memory kept by :func:`kept_memory` to the system, so that free memory can be measured."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def place(network: nn.Module, device: torch.device | str, example: Tensor | None = None) -> nn.Module:
    """Move ``network`` to ``device``, in channels-last memory format, which is fast on CPUs and GPUs.

    Results in different formats can differ in the last bit, so every network gets this one. The exception is a network
    whose code depends on the memory layout (``view``, ``as_strided``); a run on ``example`` detects that.

    Args:
        network: in evaluation mode.
        device: the target device.
        example: ``(B, C, H, W)``, on any device, to try the code of a module on. None: the network is a graph.
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
        alike = same_logits(lambda _: as_written, network, example, ALIKE)
    except Exception as error:  # later checks report an error of the network itself
        if interruption(error):
            raise
        alike = False
    if not alike:
        _lay_out(network, torch.contiguous_format)
    return network


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    for tensor in chain(network.parameters(), network.buffers()):
        if tensor.layout is torch.strided:
            # Module.to would also try the layout on 3-D convolution weights, and fail. Others may be transposed views,
            # as weights from another framework are: a matrix product of these rounds differently than after loading
            own = layout if tensor.dim() == 4 else torch.contiguous_format
            tensor.data = tensor.data.contiguous(memory_format=own)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move ``tensor`` from the CPU to ``device`` without waiting for pending GPU work."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def batches_on_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield batches ``(B, C, H, W)`` on ``device`` in float32, contiguous: network code may depend on the layout."""
    for batch in batches:
        yield batch.to(device, torch.float32, memory_format=torch.contiguous_format)


def fits(tensor: Tensor, device: torch.device | str) -> bool:
    """Whether ``tensor`` can stay on a GPU permanently: it takes at most half of the GPU's free memory."""
    if torch.device(device).type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return tensor.nbytes <= free // 2


def describe_device(device: torch.device) -> str:
    """Describe the device for a manifest."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


def describe_processor() -> str:
    """Return the CPU's name, and whether it has VNNI (8-bit dot products), which makes integer networks fast."""
    has = torch.cpu.get_capabilities()
    name = str(has.get("cpu_name") or platform.processor() or platform.machine())
    if has.get("architecture") != "x86_64":
        return name
    return f"{name}, {'with' if has.get('avx512_vnni') or has.get('avx_vnni') else 'without'} VNNI"
