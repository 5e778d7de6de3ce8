"""How the cost of both stages grows with a network, its input and the number of processes.

    python -m tests.benchmarks.scaling

times plain steps of networks of different sizes (random weights), and fits the cost of a step to its multiply-adds, its
layers' outputs, its parameters and its operations. It prints the cost of each network as predicted from the others, and
predictions for networks that were not measured. Then it times how long 1, 2 and 4 processes (gloo) take to exchange the
gradients of a tuning step. Run it on an otherwise idle machine; it uses one CPU thread.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import timm
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from intraq_cli.events import silent
from intraq_cli.graph.layers import layers
from intraq_cli.graph.nodes import calls
from intraq_cli.jobs.preparation import capture_on_device
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.recipe import Recipe
from intraq_cli.runtime.device import training_settings
from intraq_cli.runtime.distributed import process_group
from intraq_cli.zoo import load_recipe
from tests.benchmarks.step_cost import step_costs

SAMPLE = [
    ("resnet10t", 64, 10),
    ("resnet18", 96, 1000),
    ("mobilenetv2_050", 128, 100),
    ("regnety_002", 96, 1000),
    ("efficientnet_lite0", 128, 1000),
    ("resnet34", 64, 1000),
    ("vgg11_bn", 64, 1000),
]
"""timm's architecture, side of its input, classes."""
BATCHES = (8, 32)
EXTRAPOLATED = [
    ("ResNet-50 at 224", 4.1e9, 11.1e6, 25.6e6, 290),
    ("86 M parameters at 224, 17.6 G multiply-adds", 17.6e9, 40e6, 86e6, 400),
]
"""A name, multiply-adds and layers' outputs of an image, parameters, operations."""
STAGES = {"stage1": "images", "stage2": "tuning"}
PROCESSES = (1, 2, 4)
REPEATS = 7


@dataclass(frozen=True)
class Measured:
    """Steps of a network on batches of one size."""

    name: str
    batch: int
    causes: tuple[float, ...]
    """Multiply-adds and layers' outputs of a batch, the network's parameters, its operations."""
    seconds: dict[str, float]
    """Seconds per step, by stage."""


def causes(captured: Captured, batch: int) -> tuple[float, ...]:
    """The quantities that a step's time is fitted to, see :class:`Measured`."""
    found = layers(captured.graph)
    parameters = sum(tensor.numel() for tensor in captured.graph.parameters())
    work, outputs = sum(one.multiply_adds for one in found), sum(one.outputs for one in found)
    return float(batch * work), float(batch * outputs), float(parameters), float(len(calls(captured.graph)))


def measure(name: str, side: int, classes: int, steps: int) -> Iterator[Measured]:
    """Both stages of a network, on batches of every size."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=classes).eval().requires_grad_(False)
    teacher = Teacher(network, InputSpec((3, side, side), (0.5,) * 3, (0.5,) * 3), name, name, name)
    device = torch.device("cpu")
    captured = capture_on_device(teacher, device, silent)
    for batch in BATCHES:
        costs = step_costs(teacher, captured, batch, steps, device, compile=False)
        seconds = {cost.stage: cost.median for cost in costs}
        yield Measured(f"{name} at {side}", batch, causes(captured, batch), seconds)


def fitted(rows: Sequence[Measured], stage: str) -> Tensor:
    """Seconds per unit of every cause, none of them negative; relative errors of all networks count equally.

    Non-negative least squares: the best of all subsets of causes whose unconstrained solution is not negative.
    """
    times = torch.tensor([row.seconds[stage] for row in rows], dtype=torch.float64)
    matrix = torch.tensor([row.causes for row in rows], dtype=torch.float64) / times[:, None]
    best, least = torch.zeros(matrix.shape[1], dtype=torch.float64), float("inf")
    for count in range(1, matrix.shape[1] + 1):
        for chosen in combinations(range(matrix.shape[1]), count):
            own = matrix[:, chosen]
            scale = own.norm(dim=0)
            solved = (
                torch.linalg.lstsq(own / scale, torch.ones(len(rows), 1, dtype=torch.float64)).solution[:, 0] / scale
            )
            error = float((own @ solved - 1).square().sum())
            if bool((solved >= 0).all()) and error < least:
                least, best = error, torch.zeros_like(best).index_copy(0, torch.tensor(chosen), solved)
    return best


def predicted(units: Tensor, found: Sequence[float]) -> float:
    """Seconds of a step."""
    return float(units @ torch.tensor(found, dtype=torch.float64))


def report_fit(rows: Sequence[Measured], recipe: Recipe) -> None:
    """Print what was measured, its prediction from the other networks, and predictions for larger networks."""
    print("| network | batch | M parameters | G multiply-adds | stage | seconds a step | predicted by the others |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        for stage in STAGES:
            others = [one for one in rows if one.name != row.name]
            told = predicted(fitted(others, stage), row.causes)
            size = f"{row.causes[2] / 1e6:.1f} | {row.causes[0] / row.batch / 1e9:.2f}"
            print(f"| {row.name} | {row.batch} | {size} | {STAGES[stage]} | {row.seconds[stage]:.3f} | {told:.3f} |")
    for stage in STAGES:
        units = fitted(rows, stage)
        print(
            f"\n{STAGES[stage]}: {units[0] * 1e9:.4f} s a G multiply-adds, {units[1] * 1e6:.4f} s a M outputs,", end=" "
        )
        print(f"{units[2] * 1e6:.5f} s a M parameters, {units[3] * 1e3:.3f} ms an operation")
    print("\n| network | stage | seconds a step | hours, the default recipe |\n| --- | --- | --- | --- |")
    batches = recipe.synthesis.num_images // recipe.synthesis.batch_size
    volume = {
        "stage1": (recipe.synthesis.batch_size, batches * recipe.synthesis.steps),
        "stage2": (recipe.tuning.batch_size, recipe.tuning.steps),
    }
    for name, work, outputs, parameters, operations in EXTRAPOLATED:
        for stage, (batch, steps) in volume.items():
            step = predicted(fitted(rows, stage), (batch * work, batch * outputs, parameters, operations))
            print(f"| {name} | {STAGES[stage]} | {step:.1f} | {step * steps / 3600:.1f} |")


def exchanged(sizes: Sequence[int]) -> None:
    """Time what a tuning step exchanges, gradients of ``sizes`` parameters, in this process of a job."""
    with process_group(torch.device("cpu")) as ranks:
        for size in sizes:
            tensors, seconds = [torch.zeros(size // 50) for _ in range(50)], []
            for _ in range(REPEATS):
                begun = time.perf_counter()
                ranks.all_reduce(tensors)
                seconds.append(time.perf_counter() - begun)
            if ranks.rank == 0:
                print(f"| {ranks.size} | {size / 1e6:.1f} | {statistics.median(seconds):.4f} |", flush=True)


def report_exchange(sizes: Sequence[int]) -> None:
    """Print a table by the number of processes, which are started as torchrun does."""
    print("\n| processes | M parameters | seconds to exchange |\n| --- | --- | --- |", flush=True)
    for count in PROCESSES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        command = [sys.executable, "-m", "tests.benchmarks.scaling", "--exchange", *map(str, sizes)]
        jobs = [subprocess.Popen(command, env={**common, "RANK": str(k), "LOCAL_RANK": str(k)}) for k in range(count)]
        for job in jobs:
            job.wait()


def main() -> None:
    """Time, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--exchange", nargs="*", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.exchange:
        exchanged(args.exchange)
        return
    rows: list[Measured] = []
    with training_settings(torch.device("cpu")):
        for name, side, classes in SAMPLE:
            rows += measure(name, side, classes, args.steps)
            print(f"{name}: done", file=sys.stderr)
    report_fit(rows, load_recipe("default"))
    report_exchange([300_000, 3_000_000, 12_000_000, 86_000_000])


if __name__ == "__main__":
    main()
