"""The cost of one step of each stage, in the real loops with the default recipe.

    python -m tests.benchmarks.step_cost resnet20_cifar10 --batch 256 --steps 10 [--device cuda] [--no-compile]

prints, for each stage, the median seconds of a step. On a CPU the steps are compiled if possible, as in long runs. To
compare with another implementation, run the two alternately on an otherwise idle machine: times that were measured at
different times are not comparable.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from intraq_cli.events import Event, Noted, StepDone, Warned, silent
from intraq_cli.graph.nodes import own_tensors
from intraq_cli.jobs.preparation import capture_on_device
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.recipe import Quantization
from intraq_cli.runtime.compilation import can_compile
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device, place, training_settings
from intraq_cli.synthesis import progress, synthesizer
from intraq_cli.tuning import tuner
from intraq_cli.zoo import load_recipe
from tests.benchmarks.networks import real_network

RAMP = {"cpu": 1, "cuda": 4}
"""First steps, which are left out: memory is allocated in them, and on a GPU they are recorded."""


class StepCost(NamedTuple):
    """What a step of a stage costs, in seconds."""

    stage: str
    """``stage1`` (images) or ``stage2`` (tuning)."""
    median: float
    first: float
    """The first step, including setup and compilation."""


class Clock:
    """Seconds of every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.last = self.now()

    def now(self) -> float:
        """The time when the device has finished all pending work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Record a finished step, and print messages."""
        if isinstance(event, Noted | Warned):
            print(event.message, file=sys.stderr)
        if isinstance(event, StepDone):
            now = self.now()
            self.seconds.append(now - self.last)
            self.last = now

    def cost(self, stage: str) -> StepCost:
        """The cost of the steps so far."""
        return StepCost(stage, statistics.median(self.seconds[RAMP[self.device.type] :]), self.seconds[0])


def main() -> None:
    """Time both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="steps made by torch.compile")
    args = parser.parse_args()
    device = choose_device(args.device)
    compiled = device.type == "cpu" and can_compile() if args.compile is None else args.compile
    print("compiled steps" if compiled else "plain steps", file=sys.stderr)
    with training_settings(device):
        time_stages(args.network, args.batch, args.steps, device, compiled)


def time_stages(name: str, batch: int, steps: int, device: torch.device, compiled: bool) -> None:
    """Print the median of both stages' steps."""
    teacher = real_network(name)
    for cost in step_costs(teacher, capture_on_device(teacher, device, silent), batch, steps, device, compile=compiled):
        print(f"{cost.stage} {name} batch {batch} {device}: median {cost.median:.4f} s/step", flush=True)


def step_costs(
    teacher: Teacher, captured: Captured, batch: int, steps: int, device: torch.device, **settings: Any
) -> Iterator[StepCost]:
    """The costs of both stages with the default recipe at W4A4; ``settings`` replace values in both its sections."""
    recipe, total, graph = load_recipe("default"), steps + RAMP[device.type], captured.graph
    progress.REPORT_EVERY = tuner.REPORT_EVERY = 1  # every step is timed
    clock = Clock(device)
    made = synthesizer.synthesize_images(
        graph,
        teacher.spec.input_size,
        captured.num_classes,
        teacher.spec.bounds,
        replace(recipe.synthesis, num_images=batch, batch_size=batch, steps=total, **settings),
        RunContext(device=device, report=clock),
    )
    yield clock.cost("stage1")

    student = QuantizedNetwork(own_tensors(graph), plan_quantization(graph, 4, 4, "inputs"))
    few = made.images[:8].to(device, torch.float32, memory_format=torch.channels_last)
    calibrate(student, graph, few, Quantization(weight_rounding="nearest", activation_range="mse"))
    clock = Clock(device)
    config = replace(recipe.tuning, batch_size=batch, steps=total, **settings)
    context = RunContext(device=device, report=clock)
    tuner.tune(place(student, device), graph, made.images, made.labels, config, context)
    yield clock.cost("stage2")


if __name__ == "__main__":
    main()
