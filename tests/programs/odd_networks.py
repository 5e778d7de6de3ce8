"""A search for silently wrong results: random small networks with unusual parts, quantized at W8A8 without images.

``python -m tests.programs.odd_networks --count 500 --seed 0 [--jobs 2]`` prints a line for each that fails, and counts;
``test_odd_networks.py`` runs a few. A network passes if the quantized logits follow its own on unseen images (relative
error at most 0.1), if it is rejected with an IntraqError, if a warning says that quantization may ruin it or that its
batch norm statistics do not fit, or if an error of the logits that ``quantize`` or its warnings give is above 0.1 too,
and at least half of the true one. Some networks amplify the errors of eight bits: a larger error is ``coarse``, not
``WRONG``, if plain calibration at eight bits on images like the measured ones gives an error at least half as large.
``--only K`` runs network K alone and prints it. ``--learned`` uses a recipe that learns images and tunes on them, with
so few steps that only crashes and rejections are meaningful.
"""

import argparse
import copy
import functools
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import intraq_cli
from intraq_cli.errors import IntraqError
from intraq_cli.events import Warned
from intraq_cli.graph.nodes import own_tensors
from intraq_cli.graph.proof import relative_error
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import capture_teacher
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.recipe import Quantization
from tests.programs.odd_chooser import Chooser
from tests.programs.odd_convolutions import convolution
from tests.programs.odd_parts import activation, head, norm, way

MOST = 0.1
"""Largest error of the logits that passes, relative to their deviation between images."""
SHAPE = (3, 16, 16)
PLACEMENTS = ("inputs", "activations", "integer")


def quietly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Suppress warnings, which deprecated ways to write a network cause."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options)

    return call


def pictures(n: int, seed: int) -> Tensor:
    """Smooth noise, weaker at finer scales, with random brightness and contrast, clipped to the range of pixels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, *SHAPE)
    for size in (2, 4, 8, 16):
        coarse = torch.randn(n, 3, size, size, generator=generator)
        x += F.interpolate(coarse, SHAPE[1:], mode="bilinear") / size**0.5
    x = x * torch.rand(n, 1, 1, 1, generator=generator) + 0.5 * torch.randn(n, 3, 1, 1, generator=generator)
    return x.clamp(-2, 2)  # the range of pixels, normalised


class Network(nn.Module):
    """Stem, blocks, head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = Chooser(seed)
        torch.manual_seed(seed)
        widths = [choose.random.choice([8, 12, 16]) for _ in range(choose.random.choice([1, 2, 2, 3]))]
        stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), activation(choose, widths[0]))
        blocks: list[nn.Module] = []
        for i, o in zip(widths, [*widths[1:], widths[-1]], strict=True):
            kept = nn.Sequential(nn.Conv2d(i, i, 3, padding=1, bias=False), norm(choose, i), activation(choose, i))
            blocks.append(way(choose, i, kept))
            blocks.append(nn.Sequential(convolution(choose, i, o), norm(choose, o), activation(choose, o)))
        self.blocks = nn.Sequential(*blocks)
        self.head = head(choose, widths[-1], 5)
        self.parts = choose.used

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def network_of(seed: int) -> Network:
    """A network whose batch norms have the statistics of ``pictures`` and random affine parameters."""
    network = Network(seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            if module.affine:
                module.weight.data = 0.3 + torch.rand(module.weight.shape, generator=generator)
                module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
                if getattr(module, "negated", False):
                    module.weight.data[::2] *= -1
                if getattr(module, "dead", False):
                    module.weight.data[::3], module.bias.data[::3] = 1e-6, 0.0
    network.train()
    with torch.no_grad():
        for k in range(4):
            network(pictures(64, k))
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if getattr(module, "synchronised", False):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
    return network.eval().requires_grad_(False)


LEARNED = {
    "synthesis.num_images": 32, "synthesis.batch_size": 32, "synthesis.steps": 3,
    "tuning.steps": 2, "tuning.batch_size": 8,
}  # fmt: skip


@quietly
def judged(seed: int, learned: bool = False) -> tuple[str, str]:
    """A verdict on a network, and an explanation."""
    torch.set_num_threads(1)
    try:
        network = network_of(seed)
        x = pictures(128, 999)
        with torch.no_grad():
            wanted = copy.deepcopy(network)(x)
    except Exception as error:
        return "unsound", f"{type(error).__name__}: {error}"
    if not wanted.isfinite().all() or (wanted - wanted.mean(0)).square().sum() < 1e-6 * wanted.square().sum():
        return "unsound", "it says the same of all images"
    placement, warned = PLACEMENTS[seed % len(PLACEMENTS)], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            given = {"input_size": SHAPE, "mean": (0.5,) * 3, "std": (0.25,) * 3, "device": "cpu"}
            given["report"] = lambda event: warned.append(event.message) if isinstance(event, Warned) else None
            out = Path(folder) / "out"
            given |= {"recipe": "default", "set": LEARNED} if learned else {"recipe": "instant"}
            made = intraq_cli.quantize(network, w=8, a=8, out=out, act_placement=placement, **given)
            if learned:
                return "ran", ""
            with torch.no_grad():
                got = intraq_cli.load(made.path, model=network)(x)
        except IntraqError as refusal:
            return "refused", refusal.message
        except Exception:
            return "crash", traceback.format_exc()
    error = relative_error(wanted, got)
    if error <= MOST:
        return "follows", ""
    if any(said in one for one in warned for said in ("may be useless", "may break", "do not fit this network")):
        return "told", f"{placement}, off by {error:.3f}"
    named = [float(figure) for one in warned for figure in re.findall(r"logits are off by (\d+\.\d+) of", one)]
    off = max([made.logits_error, *named])
    if off > max(MOST, error / 2):
        return "told", f"{placement}, off by {error:.3f}, by {off:.3f} on random images"
    best = relative_error(wanted, calibrated_on_pictures(network, placement)(x))
    return ("coarse" if error <= 2 * best else "WRONG"), f"{placement}, off by {error:.3f}; at best by {best:.3f}"


@torch.no_grad()
def calibrated_on_pictures(network: nn.Module, placement: Any) -> nn.Module:
    """The network at W8A8, calibrated in the simplest way on images that a user may not have."""
    graph = form_of(
        capture_teacher(Source.parse(network, InputOverride(SHAPE, (0.5,) * 3, (0.25,) * 3)).load()).graph, placement
    )
    own = own_tensors(graph)
    student = QuantizedNetwork(own, plan_quantization(graph, 8, 8, placement)).eval()
    plain = Quantization(weight_rounding="nearest", activation_range="mse", correction="never")
    calibrate(student, graph, pictures(128, 5), plain)
    return student


def case(seed: int, learned: bool) -> tuple[int, str, str, float]:
    """Judge one network in a worker process."""
    begun = time.process_time()
    verdict, told = judged(seed, learned)
    return seed, verdict, told, time.process_time() - begun


def main() -> None:
    """Judge many networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--learned", action="store_true")
    args = parser.parse_args()
    if args.only is not None:
        print(network_of(args.only), *judged(args.only, args.learned), sep="\n")
        return
    counts: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    seeds = range(args.seed, args.seed + args.count)
    with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=50) as pool:
        for seed, verdict, told, seconds in pool.imap(functools.partial(case, learned=args.learned), seeds):
            counts[verdict] += 1
            if verdict == "refused":
                refusals[told[:100]] += 1
            elif verdict not in ("follows", "ran"):
                print(f"{seed} {verdict} ({seconds:.0f} s): {told}\n    {parts_of(seed)}", flush=True)
    print(dict(counts))
    for told, count in refusals.most_common():
        print(f"{count:4} refused: {told}")
    sys.exit(counts["WRONG"] + counts["crash"] > 0)


@quietly
def parts_of(seed: int) -> str:
    """The names of the network's parts."""
    return ", ".join(Network(seed).parts)


if __name__ == "__main__":
    main()
