"""Runs steps with ``torch.compile`` or as CUDA graphs if that pays off, and falls back to plain torch if it fails."""

import logging
import os
import shutil
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, fx

from intraq_cli.choices import Compile
from intraq_cli.errors import first_line, interruption
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.graph.layers import layers
from intraq_cli.runtime.cuda_graph import CudaGraph
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.micro_batches import is_out_of_memory
from intraq_cli.words import counted

Mode = Literal["plain", "graph", "compiled"]
"""How steps run: kernel by kernel, recorded as a CUDA graph, or by ``torch.compile``."""
Made = TypeVar("Made")
Result = TypeVar("Result")

PAYS = 2e9
"""Mean output values per layer and thread, over all images of a run, above which compiling saves at least twice its own
time. Measured on two cores, both stages of ResNet-20 and MobileNetV1: a step becomes 0.4 to 2.9 ns per value shorter,
and compiling takes 1.3 to 2.9 s per layer."""
MINUTE = 60.0
"""Seconds between two messages about a wait."""


def mode_of(setting: Compile, graph: fx.GraphModule, device: torch.device | str, images: int) -> Mode:
    """Choose how to run the steps of a run. No timing is involved, so that the same run always gets the same mode.

    ``auto`` on a GPU replays a CUDA graph: the same kernels, so the same results, without a long compilation. A job of
    several processes does not: messages from other processes must not arrive while one records.

    Args:
        setting: the recipe's setting.
        graph: the graph to run.
        device: the device to run it on.
        images: number of images that go through the graph, over all steps of this process.
    """
    if setting != "auto":
        return "compiled" if setting else "plain"
    kind = torch.device(device).type
    if kind == "cuda":
        return "graph" if launched().size == 1 else "plain"
    if kind != "cpu" or not can_compile():
        return "plain"
    found = layers(graph)
    pays = sum(layer.outputs for layer in found) * images >= PAYS * len(found) * torch.get_num_threads()
    return "compiled" if pays else "plain"


def can_compile() -> bool:
    """Whether the requirements of ``torch.compile`` on CPUs are there: Linux, a C++ compiler and Python's headers."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return sys.platform == "linux" and compiler is not None and headers.exists()


class Accelerated(Generic[Made]):
    """A function and, unless ``mode`` is ``plain``, a faster version of it.

    The compiled version fuses the operations between convolutions, forward and backward. Its first call compiles for
    minutes. On CUDA, its kernels are launched together as well.

    Args:
        function: a function of a tensor, called with only a few different shapes.
        mode: see :func:`mode_of`.
        device: the device that it runs on.
        report: receives notes about the wait, and a warning about a failure.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Made],
        mode: Mode = "plain",
        device: torch.device | str = "cpu",
        report: Report = silent,
    ) -> None:
        self.function, self.mode, self.report = function, mode, report
        self.to_compile = mode == "compiled"
        self.fast: Callable[[Tensor], Made] | None = None
        if mode == "graph":
            self.fast = CudaGraph(function)
            for harmless in ("The AccumulateGrad node's stream", "Attempting to run cuBLAS, but there was no current"):
                warnings.filterwarnings("ignore", harmless)  # recording uses a side stream
        if mode == "compiled":
            inductor = "reduce-overhead" if torch.device(device).type == "cuda" else None
            self.fast = torch.compile(function, dynamic=False, mode=inductor)
            # the compiler itself accesses .grad of non-leaf tensors
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            # and looks for CUDA on machines without it
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            report(Noted("torch.compile: the first step may take minutes"))

    def run(self, work: Callable[[Callable[[Tensor], Made]], Result]) -> Result:
        """Return ``work(function)`` with the fast version; if it fails, switch to the plain one permanently.

        ``work`` must start over each time, gradients included. An error of the function itself recurs, and is raised.
        """
        if self.fast is not None:
            try:
                with _telling_of_the_wait(self.report) if self.to_compile else nullcontext():
                    self.to_compile = False
                    return work(self.fast)
            except Exception as error:  # the compiler's errors have no common class
                full = is_out_of_memory(error)
                # smaller micro-batches help a compiled function; a CUDA graph may itself be what takes too much memory
                if interruption(error) or (full and self.mode == "compiled"):
                    raise
                self.fast = None
                what = "torch.compile" if self.mode == "compiled" else "recording a CUDA graph"
                self.report(Warned(f"{what} failed, continuing without it: {first_line(error)[:200]}"))
            torch.cuda.empty_cache()
        return work(self.function)


@contextmanager
def _telling_of_the_wait(report: Report) -> Iterator[None]:
    """Within the block, report the elapsed time once a minute: the compiler's progress is not known."""
    over = threading.Event()

    def tell() -> None:
        minutes = 0
        while not over.wait(MINUTE):
            minutes += 1
            report(Noted(f"torch.compile: {counted(minutes, 'minute')} of compiling so far"))

    watch = threading.Thread(target=tell, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
