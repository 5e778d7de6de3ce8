"""How closely a quantized network follows its teacher on synthetic images: figures that need no real data."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from intraq_cli.graph.batch_norms import BatchNormOutputs, ComparedOutputs, Output


@dataclass(frozen=True)
class Fidelity:
    """On images that tuning did not see."""

    n: int = 0
    agreement: float = float("nan")
    """Share of images, in percent, that both put into the same class first."""
    kl: float = float("nan")
    """Mean divergence of the student's class probabilities from the teacher's, in nats."""
    sqnr: dict[str, float] = field(default_factory=dict)
    """Per batch norm, in the order of calls: signal to quantization noise of what it puts out, in dB."""


@torch.no_grad()
def fidelity(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Tensor], batch_norms: Iterable[str] = ()
) -> Fidelity:
    """Compare the two on ``batches`` of images ``(B, C, H, W)``, on the networks' device.

    Signal is the variance of the teacher's values, noise the mean squared difference, both over all images however they
    are batched; ``batch_norms`` names the calls.
    """
    n, same, divergence = 0, 0, 0.0
    powers: list[Tensor] = []
    for x in batches:
        with BatchNormOutputs() as clean:
            p = teacher(x).log_softmax(1)
        with ComparedOutputs(clean.outputs, _moments_and_noise) as compared:
            q = student(x).log_softmax(1)
        n += len(x)
        same += int((p.argmax(1) == q.argmax(1)).sum())
        divergence += float((p.exp() * (p - q)).sum())
        powers.append(torch.stack(compared.results) * len(x))
    if not n:
        return Fidelity()
    mean, square, noise = (torch.stack(powers).sum(0) / n).unbind(1)
    decibels = (10 * ((square - mean.square()).clamp(min=0) / noise).log10()).tolist()
    return Fidelity(n, 100 * same / n, divergence / n, dict(zip(batch_norms, decibels, strict=False)))


def _moments_and_noise(student: Tensor, teacher: Output) -> Tensor:
    values = teacher.values
    moments = [values.mean(), values.square().mean(), (student - values).square().mean()]
    return torch.stack(moments).double()
