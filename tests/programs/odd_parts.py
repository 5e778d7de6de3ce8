"""Norms, activations, blocks and heads in usual and unusual forms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.programs.odd_chooser import Chooser, Function


class Own(torch.autograd.Function):
    """An activation with a custom gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


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


def norm(choose: Chooser, c: int) -> nn.Module:
    """Of ``c`` channels."""
    return choose.one(
        {
            **dict.fromkeys(("batch norm", "batch norm again", "and again", "and still"), lambda: nn.BatchNorm2d(c)),
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


def activation(choose: Chooser, c: int) -> nn.Module:
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
    return choose.one(parts)


def way(choose: Chooser, c: int, block: nn.Module) -> nn.Module:
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
    return choose.one(
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
            "repeated by a loop": lambda: Function(lambda s, x: sum(s.block(x) * w for w in (0.2, 0.5)), block=block),
            "recurrent": lambda: Function(recurrent, block=block, rnn=nn.GRU(c, c, batch_first=True)),
            "depends on the image": lambda: Function(lambda s, x: s.block(x) if x.mean() > -100 else x, block=block),
            "no gradient": lambda: Function(without_gradient, block=block),
            "double": lambda: Function(lambda s, x: s.block(x.double().float()), block=block),
        }
    )


def head(choose: Chooser, c: int, classes: int) -> nn.Module:
    """From ``(B, c, H, W)`` to logits."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    weight = nn.Parameter(torch.randn(classes, c) / c**0.5)
    return choose.one(
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
