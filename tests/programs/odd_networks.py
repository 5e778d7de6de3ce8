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
import random
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
from torch.nn.utils import parametrizations, parametrize

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


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], **kept: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in kept.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Own(torch.autograd.Function):
    """An activation with a custom gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Masked(nn.Module):
    """A parametrization: part of a weight is pruned."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(like) > 0.4).float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Chooser:
    """Draws parts of a network at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.used: list[str] = []

    def one(self, parts: dict[str, Callable[[], Any]]) -> Any:
        """Draw one of the parts and record its name."""
        name = self.random.choice(sorted(parts))
        self.used.append(name)
        return parts[name]()

    def convolution(self, i: int, o: int) -> nn.Module:
        """``(B, i, H, W)`` to ``(B, o, H, W)``, perhaps of half the size."""
        k, bias = self.random.choice([1, 3, 3, 5]), self.random.random() < 0.5
        common = divisors(i, o)
        groups = self.random.choice(common)
        weight = nn.Parameter(torch.randn(o, i, 3, 3) / (9 * i) ** 0.5)

        def plain() -> nn.Conv2d:
            return nn.Conv2d(i, o, k, padding=k // 2, bias=bias)

        def twice() -> nn.Module:
            return Function(lambda s, x: s.second(s.first(x)), first=plain(), second=nn.Conv2d(o, o, 1, bias=bias))

        def shared() -> nn.Module:
            return Function(
                lambda s, x: s.shared(torch.relu(s.norm(s.shared(s.first(x))))),
                first=plain(),
                shared=nn.Conv2d(o, o, 3, padding=1, bias=bias),
                norm=nn.BatchNorm2d(o),
            )

        def of_parts() -> nn.Module:
            return Function(
                lambda s, x: F.conv2d(x, s.a + s.b, padding=1), a=weight, b=nn.Parameter(0.3 * torch.randn_like(weight))
            )

        def standardised() -> nn.Module:
            def run(s: Any, x: Tensor) -> Tensor:
                centred = s.a - s.a.mean((1, 2, 3), keepdim=True)
                return F.conv2d(x, centred / centred.std((1, 2, 3), keepdim=True) / (9 * i) ** 0.5, padding=1)

            return Function(run, a=weight)

        def unfolded() -> nn.Module:
            def run(s: Any, x: Tensor) -> Tensor:
                columns = F.unfold(x, 3, padding=1)
                return (s.a.flatten(1) @ columns).unflatten(2, x.shape[2:])

            return Function(run, a=weight)

        def pruned() -> nn.Module:
            conv = plain()
            parametrize.register_parametrization(conv, "weight", Masked(conv.weight))
            return conv

        def hooked() -> nn.Module:
            conv = plain()
            conv.register_forward_hook(lambda module, args, out: out * 0.5)
            return conv

        return self.one(
            {
                "conv": plain,
                "strided": lambda: nn.Conv2d(i, o, 3, 2, 1, bias=bias),
                "grouped": lambda: nn.Conv2d(i, o, 3, padding=1, groups=groups, bias=bias),
                "depthwise separable": lambda: nn.Sequential(
                    nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False),
                    nn.BatchNorm2d(i),
                    nn.ReLU6(),
                    nn.Conv2d(i, o, 1),
                ),
                "dilated": lambda: nn.Conv2d(i, o, 3, padding=2, dilation=2, bias=bias),
                "same": lambda: nn.Conv2d(i, o, 4, padding="same", bias=bias),
                "reflected": lambda: nn.Conv2d(i, o, 3, padding=1, padding_mode="reflect", bias=bias),
                "circular": lambda: nn.Conv2d(i, o, 3, padding=1, padding_mode="circular", bias=bias),
                "replicated": lambda: nn.Conv2d(i, o, 3, padding=1, padding_mode="replicate", bias=bias),
                "asymmetric": lambda: nn.Sequential(
                    nn.Conv2d(i, o, (1, 3), padding=(0, 1)), nn.Conv2d(o, o, (3, 1), padding=(1, 0))
                ),
                "transposed": lambda: nn.ConvTranspose2d(i, o, 3, padding=1, bias=bias),
                "weight norm": lambda: parametrizations.weight_norm(plain()),
                "spectral norm": lambda: parametrizations.spectral_norm(plain()),
                "orthogonal": lambda: parametrizations.orthogonal(nn.Conv2d(i, o, 1)),
                "pruned": pruned,
                "hooked": hooked,
                "two in a row": twice,
                "called twice": shared,
                "sum of kernels": of_parts,
                "standardised": standardised,
                "unfolded": unfolded,
                "einsum": lambda: Function(
                    lambda s, x: torch.einsum("bihw,oi->bohw", x, s.a), a=nn.Parameter(weight[:, :, 1, 1] * 3)
                ),
                "linear on channels last": lambda: Function(
                    lambda s, x: s.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), fc=nn.Linear(i, o)
                ),
                "conv1d on rows": lambda: Function(
                    lambda s, x: s.conv(x.flatten(2)).unflatten(2, x.shape[2:]), conv=nn.Conv1d(i, o, 3, padding=1)
                ),
                "conv3d": lambda: Function(
                    lambda s, x: s.conv(x[:, :, None])[:, :, 0], conv=nn.Conv3d(i, o, (1, 3, 3), padding=(0, 1, 1))
                ),
                "traced": lambda: torch.jit.trace(plain().eval(), torch.zeros(2, i, 8, 8)),
                "scripted": lambda: torch.jit.script(nn.Sequential(plain(), nn.ReLU())),
                "by batch size one": lambda: Function(
                    lambda s, x: (
                        torch.cat([s.conv(part) for part in x.split(1, 1)], 1)
                        .mean(1, keepdim=True)
                        .expand(-1, o, -1, -1)
                    ),
                    conv=nn.Conv2d(1, 2, 3, padding=1),
                ),
            }
        )

    def norm(self, c: int) -> nn.Module:
        """Of ``c`` channels."""
        return self.one(
            {
                **dict.fromkeys(
                    ("batch norm", "batch norm again", "and again", "and still"), lambda: nn.BatchNorm2d(c)
                ),
                "batch norm without affine": lambda: nn.BatchNorm2d(c, affine=False),
                "group norm": lambda: nn.GroupNorm(1, c),
                "instance norm": lambda: nn.InstanceNorm2d(c, affine=True),
                "layer norm": lambda: Function(
                    lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(c)
                ),
                "none": nn.Identity,
                "large eps": lambda: nn.BatchNorm2d(c, eps=0.1),
                "synchronised": lambda: synchronised(nn.BatchNorm2d(c)),
                "batch norm, negative gamma": lambda: negated(nn.BatchNorm2d(c)),
                "batch norm with dead channels": lambda: dead(nn.BatchNorm2d(c)),
            }
        )

    def activation(self, c: int) -> nn.Module:
        """Of ``c`` channels."""
        function = {
            "sigmoid times x": lambda s, x: x * x.sigmoid(),
            "maximum": lambda s, x: torch.maximum(x, 0.1 * x),
            "clamp": lambda s, x: x.clamp(-1, 3),
            "clamp method": lambda s, x: x.clamp_min(0),
            "where": lambda s, x: torch.where(x > 0, x, 0.2 * x),
            "tanh": lambda s, x: x.tanh(),
            "abs": lambda s, x: x.abs(),
            "relu squared": lambda s, x: x.relu().square(),
            "softplus": lambda s, x: F.softplus(x),
            "relu in place": lambda s, x: F.relu_(x.clone()),
            "written over": written_over,
            "own gradient": lambda s, x: Own.apply(x),
            "relu of minus": lambda s, x: -F.relu(-x),
            "glu": lambda s, x: F.glu(torch.cat([x, x.flip(1)], 1), 1),
        }
        modules = [nn.ReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Hardswish, nn.GELU, nn.Mish, nn.CELU]
        parts: dict[str, Callable[[], Any]] = {f"{m.__name__} {k}": m for k, m in enumerate(modules)}
        parts |= {name: lambda f=f: Function(f) for name, f in function.items()}
        parts |= {
            "prelu": lambda: nn.PReLU(c),
            "hardtanh": lambda: nn.Hardtanh(0.0, 2.0),
            "threshold": lambda: nn.Threshold(0.1, 0.0),
            "dropout": lambda: nn.Sequential(nn.ReLU(), nn.Dropout2d(0.3)),
        }
        return self.one(parts)

    def way(self, c: int, block: nn.Module) -> nn.Module:
        """Embed a block, which keeps the size and the ``c`` channels, in a larger structure."""
        gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, max(1, c // 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(1, c // 4), c, 1),
            nn.Sigmoid(),
        )
        halves = nn.Conv2d(c // 2, c // 2, 3, padding=1)
        scale = nn.Parameter(torch.full((c, 1, 1), 0.5))
        return self.one(
            {
                "straight": lambda: block,
                "residual": lambda: Function(lambda s, x: x + s.block(x), block=block),
                "residual in place": lambda: Function(add_in_place, block=block),
                "scaled residual": lambda: Function(lambda s, x: torch.add(x, s.block(x), alpha=0.3), block=block),
                "layer scale": lambda: Function(lambda s, x: x + s.scale * s.block(x), block=block, scale=scale),
                "concatenated": lambda: Function(
                    lambda s, x: s.mix(torch.cat([x, s.block(x)], 1)), block=block, mix=nn.Conv2d(2 * c, c, 1)
                ),
                "squeeze and excitation": lambda: Function(lambda s, x: s.block(x) * s.gate(x), block=block, gate=gate),
                "halves": lambda: Function(
                    lambda s, x: torch.cat([x[:, : c // 2], s.conv(s.block(x)[:, c // 2 :])], 1),
                    block=block,
                    conv=halves,
                ),
                "shuffled": lambda: Function(
                    lambda s, x: s.block(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), block=block
                ),
                "averaged": lambda: Function(lambda s, x: F.avg_pool2d(s.block(x), 3, 1, 1), block=block),
                "max pooled": lambda: Function(lambda s, x: F.max_pool2d(s.block(x), 3, 1, 1), block=block),
                "rolled": lambda: Function(lambda s, x: s.block(x).roll(1, 2) - 0.5 * x.flip(3), block=block),
                "stacked": lambda: Function(lambda s, x: torch.stack([x, s.block(x)]).mean(0), block=block),
                "attention": lambda: Function(attend, block=block, qkv=nn.Conv2d(c, 3 * c, 1)),
                "multi-head attention": lambda: Function(
                    attend_by_torch, block=block, attention=nn.MultiheadAttention(c, 1, batch_first=True)
                ),
                "spectrum": lambda: Function(
                    lambda s, x: torch.fft.irfft2(torch.fft.rfft2(s.block(x)) * 0.9, s=x.shape[2:]), block=block
                ),
                "called twice": lambda: Function(lambda s, x: s.block(s.block(x)), block=block),
                "hard gate": lambda: Function(lambda s, x: x * F.hardsigmoid(s.block(x)), block=block),
                "repeated by a loop": lambda: Function(
                    lambda s, x: sum(s.block(x) * w for w in (0.2, 0.5)), block=block
                ),
                "recurrent": lambda: Function(recurrent, block=block, rnn=nn.GRU(c, c, batch_first=True)),
                "depends on the image": lambda: Function(
                    lambda s, x: s.block(x) if x.mean() > -100 else x, block=block
                ),
                "no gradient": lambda: Function(without_gradient, block=block),
                "double": lambda: Function(lambda s, x: s.block(x.double().float()), block=block),
            }
        )

    def head(self, c: int, classes: int) -> nn.Module:
        """From ``(B, c, H, W)`` to logits."""
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        weight = nn.Parameter(torch.randn(classes, c) / c**0.5)
        return self.one(
            {
                "linear": lambda: nn.Sequential(pool, nn.Linear(c, classes)),
                "functional": lambda: Function(
                    lambda s, x: F.linear(x.mean((2, 3)), s.weight, s.bias),
                    weight=weight,
                    bias=nn.Parameter(torch.randn(classes)),
                ),
                "two layers": lambda: nn.Sequential(
                    pool,
                    nn.Linear(c, 2 * c),
                    nn.BatchNorm1d(2 * c),
                    nn.ReLU(),
                    nn.Dropout(0.5),
                    nn.Linear(2 * c, classes),
                ),
                "convolution": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, classes, 1), nn.Flatten()),
                "convolution, then pool": lambda: nn.Sequential(
                    nn.Conv2d(c, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
                ),
                "bare product": lambda: Function(lambda s, x: x.mean((2, 3)) @ s.weight.T, weight=weight),
                "addmm": lambda: Function(
                    lambda s, x: torch.addmm(s.bias, x.amax((2, 3)), s.weight.T),
                    weight=weight,
                    bias=nn.Parameter(torch.randn(classes)),
                ),
                "cosine": lambda: Function(
                    lambda s, x: 10 * F.linear(F.normalize(x.mean((2, 3))), F.normalize(s.weight)), weight=weight
                ),
                "two heads": lambda: Function(
                    lambda s, x: (s.a(x.mean((2, 3))) + s.b(x.amax((2, 3)))) / 2,
                    a=nn.Linear(c, classes),
                    b=nn.Linear(c, classes),
                ),
                "log softmax": lambda: nn.Sequential(pool, nn.Linear(c, classes), nn.LogSoftmax(1)),
                "flattened": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * c, classes)),
                "batch norm last": lambda: nn.Sequential(pool, nn.Linear(c, classes), nn.BatchNorm1d(classes)),
                "no classifier": lambda: nn.Sequential(
                    nn.Conv2d(c, classes, 3, padding=1), nn.BatchNorm2d(classes), nn.AdaptiveAvgPool2d(1), nn.Flatten()
                ),
            }
        )


def divisors(i: int, o: int) -> list[int]:
    """Numbers of groups that divide both numbers of channels."""
    return [g for g in range(1, min(i, o) + 1) if i % g == o % g == 0]


def synchronised(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Mark it to become a SyncBatchNorm, which trains only on GPUs, once it has statistics."""
    norm.synchronised = True
    return norm


def negated(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Mark it to get a negative gamma in every second channel."""
    norm.negated = True
    return norm


def dead(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Mark it to get some channels whose output is nearly zero."""
    norm.dead = True
    return norm


def written_over(module: nn.Module, x: Tensor) -> Tensor:
    """Writes to part of a tensor in place."""
    x = x.relu()
    x[:, 0] = x[:, 0] * 0.5
    return x


def add_in_place(module: Any, x: Tensor) -> Tensor:
    """A residual sum."""
    out = module.block(x)
    out += x
    return out


def attend(module: Any, x: Tensor) -> Tensor:
    """Attention between positions."""
    q, k, v = module.qkv(module.block(x)).flatten(2).chunk(3, 1)
    weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
    return x + (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])


def attend_by_torch(module: Any, x: Tensor) -> Tensor:
    """Attention with torch's module."""
    tokens = module.block(x).flatten(2).transpose(1, 2)
    return x + module.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, x.shape[2:])


def recurrent(module: Any, x: Tensor) -> Tensor:
    """A recurrent layer over rows."""
    rows = module.block(x).mean(3).transpose(1, 2)
    return x + module.rnn(rows)[0].transpose(1, 2)[..., None]


def without_gradient(module: Any, x: Tensor) -> Tensor:
    """Part of the computation runs under ``no_grad``."""
    with torch.no_grad():
        shift = module.block(x).mean((2, 3), keepdim=True)
    return module.block(x) - shift


class Network(nn.Module):
    """Stem, blocks, head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = Chooser(seed)
        torch.manual_seed(seed)
        widths = [choose.random.choice([8, 12, 16]) for _ in range(choose.random.choice([1, 2, 2, 3]))]
        stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), choose.activation(widths[0]))
        blocks: list[nn.Module] = []
        for i, o in zip(widths, [*widths[1:], widths[-1]], strict=True):
            kept = nn.Sequential(nn.Conv2d(i, i, 3, padding=1, bias=False), choose.norm(i), choose.activation(i))
            blocks.append(choose.way(i, kept))
            blocks.append(nn.Sequential(choose.convolution(i, o), choose.norm(o), choose.activation(o)))
        self.blocks = nn.Sequential(*blocks)
        self.head = choose.head(widths[-1], 5)
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
