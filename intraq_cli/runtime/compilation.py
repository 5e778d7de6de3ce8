"""Steps by ``torch.compile`` or as CUDA graphs, where that pays, and by plain torch again where it fails."""

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

from intraq_cli.errors import first_line, interruption
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.graph.layers import layers
from intraq_cli.recipe import Compile
from intraq_cli.runtime.cuda_graph import CudaGraph
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.micro_batches import is_out_of_memory
from intraq_cli.words import counted

Mode = Literal["plain", "graph", "compiled"]
"""How steps run: kernel by kernel, recorded as a CUDA graph, or by ``torch.compile``."""
Made = TypeVar("Made")
Result = TypeVar("Result")

PAYS = 2e9
"""Values put out by a layer, of all images of a run, for each thread: so many take twice the time of compiling off the
steps, or more. Measured on two cores, both stages of ResNet-20 and MobileNetV1: a step becomes shorter by 0.4 to 2.9 ns
a value, and compiling takes 1.3 to 2.9 s a layer."""
MINUTE = 60.0
"""Seconds between two lines about a wait."""


def mode_of(setting: Compile, graph: fx.GraphModule, device: torch.device | str, images: int) -> Mode:
    """How to run the steps of a run; not by the clock, so that the same run always takes the same way.

    By itself, a GPU replays a CUDA graph: the same kernels, so the same results, and no wait. Several processes do not:
    while one records, the others' messages must not arrive.

    Args:
        setting: the recipe's.
        graph: what runs.
        device: where.
        images: how many go through it, over all steps of this process.
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
    """Whether there is what the compiler for CPUs needs: a C++ compiler, and Python's headers."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return sys.platform == "linux" and compiler is not None and headers.exists()


class Accelerated(Generic[Made]):
    """A function in two forms: as it is and, in another ``mode`` than ``plain``, a faster one.

    Compiled, what lies between convolutions is computed in one pass rather than several, forward and backward, after
    minutes of compiling at the first call; on CUDA its kernels are launched at once as well.

    Args:
        function: of a tensor, of a few different shapes.
        mode: see :func:`mode_of`.
        device: where it works.
        report: told of the wait, and of a failure.
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
                warnings.filterwarnings("ignore", harmless)  # recording goes on beside the main stream
        if mode == "compiled":
            inductor = "reduce-overhead" if torch.device(device).type == "cuda" else None
            self.fast = torch.compile(function, dynamic=False, mode=inductor)
            # the compiler itself looks at gradients of tensors that keep none
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            # and for CUDA, where there is none
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            report(Noted("torch.compile: the first step takes minutes"))

    def run(self, work: Callable[[Callable[[Tensor], Made]], Result]) -> Result:
        """``work(function)``, gradients and all; with the plain one, for good, where it fails with the fast one.

        It must start over each time. An error of the function itself comes up again, and so is raised.
        """
        if self.fast is not None:
            try:
                with _telling_of_the_wait(self.report) if self.to_compile else nullcontext():
                    self.to_compile = False
                    return work(self.fast)
            except Exception as error:  # the compiler's own errors have no common class
                full = is_out_of_memory(error)
                # smaller micro-batches help; a graph takes memory of its own, and so may be what was too much
                if interruption(error) or (full and self.mode == "compiled"):
                    raise
                self.fast = None
                what = "torch.compile" if self.mode == "compiled" else "recording a CUDA graph"
                self.report(Warned(f"{what} failed, going on without it: {first_line(error)[:200]}"))
            torch.cuda.empty_cache()
        return work(self.function)


@contextmanager
def _telling_of_the_wait(report: Report) -> Iterator[None]:
    """Within the block, a line a minute says that it goes on: nobody knows how far the compiler is."""
    over = threading.Event()

    def tell() -> None:
        minutes = 0
        while not over.wait(MINUTE):
            minutes += 1
            report(Noted(f"torch.compile: {counted(minutes, 'minute')} so far"))

    watch = threading.Thread(target=tell, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
