"""Choosing the size of micro-batches by the free memory, and halving them when it runs out."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from intraq_cli.events import Warned
from intraq_cli.runtime import memory, micro_batches
from intraq_cli.runtime.memory import free_memory
from intraq_cli.runtime.micro_batches import MicroBatches, largest_micro_batch
from tests.conftest import SmallNet, graph_of, trained

PROGRAM = """
import torch
from intraq_cli.runtime.device import training_settings
from intraq_cli.runtime import micro_batches
from intraq_cli.runtime.micro_batches import largest_micro_batch

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

cpu = torch.device("cpu")
before = resident()

def use_and_free():
    tensors = [torch.ones(2**24) for _ in range(4)]
    del tensors
    return resident() - before

with training_settings(cpu):
    kept = use_and_free()
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)))
    largest_micro_batch(graph, (3, 8, 8), cpu, "tuning")
    counted = resident() - before
    use_and_free()
print(kept, counted, resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc: how much is resident is not known")
def test_memory_that_the_allocator_keeps_is_released_before_measuring():
    made = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, counted, after = map(float, made.stdout.split())  # MiB
    if kept < 200:
        pytest.skip("this C library keeps nothing")
    assert max(counted, after) < 60


def test_network_is_freed_after_its_memory_was_measured():
    graph = graph_of(trained(SmallNet()))
    assert largest_micro_batch(graph, (3, 8, 8), torch.device("cpu"), "tuning") is not None
    weight = weakref.ref(next(graph.parameters()))
    del graph
    gc.collect()
    assert weight() is None


def test_free_memory_is_the_least_of_machine_and_control_groups(tmp_path, monkeypatch):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", groups)
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  99 kB\nMemAvailable:  50 kB\nHugePages_Total:  0\n")
    assert free_memory() == 50 * 1024  # no groups
    (proc / "self/cgroup").write_text("4:memory:/old\n0::/job/step\n")

    def group(path, limit, used, cached):
        folder = groups / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")

    group("job/step", "max", 9000, 0)
    group("job", 30_000, 29_000, 20_000)
    assert free_memory() == 21_000
    group("job/step", 20_000, 1000, 0)
    assert free_memory() == 19_000


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    def planned():
        return micro_batches.largest_micro_batch(torch.nn.Conv2d(3, 4, 3), (3, 8, 8), torch.device("cpu"), "tuning")

    monkeypatch.setattr(micro_batches, "free_memory", lambda: 10_000_000)
    alone = planned()
    for key, value in {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(key, value)
    assert planned() == alone // 4
    monkeypatch.delenv("LOCAL_WORLD_SIZE")  # then all of them may be on this machine
    assert planned() == alone // 8


def test_free_memory_without_proc_is_all_memory_and_unknown_without_sysconf(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC", tmp_path / "no proc")  # macOS
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    assert free_memory() == 4_096_000
    monkeypatch.delattr(memory.os, "sysconf")  # Windows
    network = torch.nn.Conv2d(3, 4, 3)
    assert micro_batches.largest_micro_batch(network, (3, 8, 8), torch.device("cpu"), "tuning") is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("shape"), False),
    ],
)
def test_out_of_memory_errors_are_recognised_by_their_messages(error, expected):
    assert micro_batches.is_out_of_memory(error) is expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("you tried: can't allocate memory")])
def test_micro_batches_are_halved_until_the_work_fits_in_memory(error):
    told, sizes = [], []

    def work(size):
        sizes.append(size)
        if size > 3:
            raise error
        return size

    micro_batches = MicroBatches(report=told.append)
    assert micro_batches.run(work, 10) == 3
    assert sizes == [10, 5, 3]
    assert micro_batches.run(work, 10) == 3  # it remembers the size
    assert [type(event) for event in told] == [Warned] * 2
    with pytest.raises(RuntimeError, match="shape"):
        micro_batches.run(lambda size: (_ for _ in ()).throw(RuntimeError("shape")), 10)
    with pytest.raises(type(error)):
        MicroBatches(1).run(lambda size: work(9), 10)


class Thresholded(SmallNet):
    def forward(self, x):
        return super().forward((x > 0).float())


class Undifferentiated(SmallNet):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


def test_micro_batch_size_is_similar_if_images_get_no_gradient(monkeypatch):
    monkeypatch.setattr(micro_batches, "free_memory", lambda: float(2**22))
    plain, decorated, thresholded = (
        largest_micro_batch(graph_of(trained(kind())), (3, 8, 8), torch.device("cpu"), "tuning")
        for kind in (SmallNet, Undifferentiated, Thresholded)
    )
    assert decorated == plain > 1
    assert plain / 4 < thresholded < 4 * plain
