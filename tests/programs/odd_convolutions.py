"""Convolutions in usual and unusual forms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.programs.odd_chooser import Chooser, Function


class Masked(nn.Module):
    """A parametrization: part of a weight is pruned."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(like) > 0.4).float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def divisors(i: int, o: int) -> list[int]:
    """Numbers of groups that divide both numbers of channels."""
    return [g for g in range(1, min(i, o) + 1) if i % g == o % g == 0]


def convolution(choose: Chooser, i: int, o: int) -> nn.Module:
    """``(B, i, H, W)`` to ``(B, o, H, W)``, perhaps of half the size."""
    k, bias = choose.random.choice([1, 3, 3, 5]), choose.random.random() < 0.5
    common = divisors(i, o)
    groups = choose.random.choice(common)
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

    return choose.one(
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
                    torch.cat([s.conv(part) for part in x.split(1, 1)], 1).mean(1, keepdim=True).expand(-1, o, -1, -1)
                ),
                conv=nn.Conv2d(1, 2, 3, padding=1),
            ),
        }
    )
