"""Take every timm architecture with BatchNorm2d through the whole of intraq, and write a row for each.

    python zoo/coverage.py --out zoo/results/coverage.csv [--shard 0/2] [--only NAME ...]

Random weights, small images where the network allows it. Below 100 M parameters: one step of stage 1, calibration, one
step of tuning, save, load, and compare the logits bit for bit, in both placements. Above: conversion on the meta
device. Rows that are there already are not made again. Limits and seconds count the CPU's time, so that other work on
the machine does not change a row.
"""

import argparse
import csv
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import fx, nn

from intraq_cli.checkpoint.config import checkpoint_config
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.checkpoint.write import checkpoint_tensors, write_weights
from intraq_cli.errors import IntraqError
from intraq_cli.graph.layers import layers, quantizable
from intraq_cli.graph.products import products
from intraq_cli.io.json_files import write_json
from intraq_cli.jobs.pipeline import Job
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Teacher, capture_teacher
from intraq_cli.models.timm_source import timm_teacher
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.recipe import Placement, Recipe
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import place
from intraq_cli.synthesis.tuning_images import TuningImages

LARGE = 100_000_000
CPU = torch.device("cpu")
SIZES = (64, 96, 128, 160, 192, 224, 256)
SECONDS = 300
PLACEMENTS: tuple[Placement, ...] = ("inputs", "activations")
COLUMNS = ["architecture", "parameters", "input_size", "layers", "kept_float", "inputs", "activations", "seconds"]
RECIPE = Recipe().override(
    [
        *("synthesis.num_images=2", "synthesis.batch_size=2", "synthesis.steps=1"),
        *("tuning.steps=1", "tuning.batch_size=2"),
        # the search for ranges and careful rounding take a while, and do not depend on the architecture
        *("quantization.weight_rounding=nearest", "quantization.weight_range=minmax"),
        *("quantization.activation_range=mse", "quantization.correction=always", "quantization.equalization=false"),
    ]
)


def architectures(shard: int = 0, shards: int = 1) -> Iterator[str]:
    """All of timm's that have a BatchNorm2d, in a random order: the first part of it is a fair sample of all."""
    names = timm.list_models()
    random.Random(0).shuffle(names)
    for name in names[shard::shards]:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, pretrained=False)
        except Exception:
            network = timm.create_model(name, pretrained=False)
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            yield name


def small_teacher(name: str) -> Teacher:
    """Random weights whose statistics fit them, and the smallest input that the network takes."""
    torch.manual_seed(0)
    teacher = timm_teacher(timm.create_model(name, pretrained=False), name, name)
    channels, height, width = teacher.spec.input_size
    fixed = teacher.network.pretrained_cfg.get("fixed_input_size", False)  # type: ignore[operator, union-attr]
    sizes = [] if fixed else [(channels, size, size) for size in SIZES if size < min(height, width)]
    for size in [*sizes, (channels, height, width)]:
        try:
            _settle(teacher.network, size)
        except (RuntimeError, ValueError, AssertionError):
            if size == (channels, height, width):
                raise
        else:
            return replace(teacher, spec=replace(teacher.spec, input_size=size))
    raise AssertionError("unreachable")


def _settle(network: nn.Module, size: tuple[int, int, int]) -> None:
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, *size))
    network.eval().requires_grad_(False)


def converts(graph: fx.GraphModule, placement: Placement) -> str:
    """Whether a plan can be made."""
    plan_quantization(graph, 4, 4, placement)
    return "converts"


def end_to_end(job: Job, made: TuningImages, placement: Placement) -> str:
    """What ``quantize`` and ``load`` do with images."""
    plan = plan_quantization(job.captured.graph, 4, 4, placement)
    images = made.images.float()
    quantized = job.quantize(plan, made)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder)
        write_weights(path, checkpoint_tensors(quantized.student, quantized.stored))
        write_json(path / "config.json", checkpoint_config(job.teacher, job.captured, plan, 4, 4))
        again = read_checkpoint(path).network
        ours, theirs = quantized.student(images), again(images)
    if not ours.isfinite().all():
        return "fails: logits are not finite"
    return "works" if torch.equal(ours, theirs) else "fails: other logits after loading"


def cover(name: str) -> dict[str, Any]:
    """One row of the table."""
    started = time.process_time()
    sketch = Source.parse(name).on_meta()
    count = sum(p.numel() for p in sketch.network.parameters())
    large = count >= LARGE
    row: dict[str, Any] = {"architecture": name, "parameters": count}
    size = None
    try:
        with _at_most(SECONDS):
            teacher = sketch if large else small_teacher(name)
            if not large:
                place(teacher.network, CPU)
            size, captured = teacher.spec.input_size, capture_teacher(teacher)
            if not large:
                job = Job(teacher, captured, RECIPE, RunContext(micro_batch_size=RECIPE.tuning.batch_size))
                made = job.synthesize()  # the same for both placements
    except Exception as error:
        row |= dict.fromkeys(PLACEMENTS, _said(error))
    else:
        graph = captured.graph
        quantized = len(quantizable(graph))
        row |= {"layers": quantized, "kept_float": len(layers(graph)) + len(products(graph)) - quantized}
        for placement in PLACEMENTS:
            try:
                with _at_most(SECONDS):
                    row[placement] = converts(graph, placement) if large else end_to_end(job, made, placement)
            except Exception as error:
                row[placement] = _said(error)
    row |= {"input_size": "x".join(map(str, size or ())), "seconds": round(time.process_time() - started, 1)}
    return row


def _said(error: Exception) -> str:
    if isinstance(error, IntraqError):
        return f"refused: {error.message}"
    return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s of CPU time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shard", default="0/1", help="k/n: every n-th architecture, from the k-th on")
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = list(csv.DictReader(options.out.open())) if options.out.is_file() else []
    done = {row["architecture"] for row in rows}
    k, n = map(int, options.shard.split("/"))
    if not rows:
        options.out.write_text(",".join(COLUMNS) + "\n")
    started = options.out.with_suffix(".now")
    if started.is_file() and (name := started.read_text()) not in done:  # it took the process with it
        with options.out.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({"architecture": name} | dict.fromkeys(PLACEMENTS, "fails: crash"))
        done.add(name)
    for name in options.only or architectures(k, n):
        if name in done:
            continue
        started.write_text(name)
        row = cover(name)
        with options.out.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        print(name, row.get("inputs"), "|", row.get("activations"), row["seconds"], "s", flush=True)


if __name__ == "__main__":
    main()
