"""Checks of everything that depends on a GPU, one verdict per line, then the cost of a step.

    python -m tests.gpu_first_look [--device cuda] [--compile] [--network mobilenetv2_100 ...] [--batch 128]

Needs no data and no network access. Continues after a failed check; the exit code is 1 if any failed. With ``--device
cpu``, the checks that need no GPU run too, which tests the script itself.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from intraq_cli.events import silent
from intraq_cli.graph.layers import layers
from intraq_cli.jobs.preparation import capture_on_device
from intraq_cli.models.source import Source
from intraq_cli.models.timm_source import timm_teacher
from intraq_cli.runtime.device import choose_device, training_settings
from tests.benchmarks.step_cost import step_costs
from tests.gpu_checks import BUNDLED, CHECKS


def roof(device: torch.device) -> dict[str, float]:
    """The throughput that the device reaches: TFLOP/s of a large product in TF32 and bfloat16, GB/s of a copy."""
    found = {}
    for name, dtype in (("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        size = 4096 if device.type == "cuda" else 512
        a = torch.randn(size, size, device=device, dtype=dtype)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        found[name] = 2 * size**3 / _seconds(lambda a=a: a @ a, device) / 1e12
        torch.backends.cuda.matmul.allow_tf32 = before
    values = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    found["copy"] = 2 * 4 * values.numel() / _seconds(values.clone, device) / 1e9
    return found


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    for _ in range(3):
        work()
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - begun) / repeats


def speed(name: str, device: torch.device, batch: int, compile_: bool) -> None:
    """Print what a step costs in each precision, plain and compiled, and its share of the roof."""
    import timm

    known = roof(device)
    print(
        f"roof: {known['tf32']:.0f} TFLOP/s TF32, {known['bfloat16']:.0f} bfloat16, copies at {known['copy']:.0f} GB/s"
    )
    torch.manual_seed(0)
    loaded = Source.parse(name).load() if name == BUNDLED else None
    network = timm.create_model(name, pretrained=False).eval() if loaded is None else None
    teacher = loaded or timm_teacher(network, name, name)
    captured = capture_on_device(teacher, device, silent)
    multiply_adds = sum(layer.multiply_adds for layer in layers(captured.graph))
    for precision in ("float32", "bfloat16"):
        modes = {"plain": False, "by itself": "auto", "compiled": True}
        for mode, setting in list(modes.items())[: 3 if compile_ else 2]:
            how = f"{precision} {mode}"
            costs = step_costs(teacher, captured, batch, 10, device, precision=precision, compile=setting)
            for stage, seconds, first in costs:
                # forward, and twice that backward (stage 1 needs no gradient of weights); tuning runs the teacher too
                passes = 2 if stage == "stage1" else 4
                reached = 2 * multiply_adds * batch * passes / seconds / 1e12
                share = reached / known["bfloat16" if precision == "bfloat16" else "tf32"]
                print(
                    f"{name} batch {batch} {stage} {how}: {1000 * seconds:.1f} ms,"
                    f" {batch / seconds:.0f} images/s, {share:.1%} of the roof; first step {first:.1f} s",
                    flush=True,
                )


def main() -> None:
    """Run all checks, then measure the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", nargs="*", default=["mobilenetv2_100"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true", help="time compiled steps too: minutes")
    parser.add_argument("--no-checks", action="store_true")
    args = parser.parse_args()
    device = choose_device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    failed = 0
    with training_settings(device):
        for one in [] if args.no_checks else CHECKS:
            begun = time.perf_counter()
            try:
                verdict, told = "ok  ", one(device)
            except Exception as error:
                failed += 1
                verdict, told = "FAIL", f"{type(error).__name__}: {error}"
                traceback.print_exc()
            print(
                f"{verdict} {one.__name__.replace('_', ' ')} ({time.perf_counter() - begun:.1f} s): {told}", flush=True
            )
        for name in args.network:
            speed(name, device, args.batch, args.compile)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
