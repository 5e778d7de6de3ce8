"""How closely a quantized network matches its teacher on synthetic images: metrics that need no real data."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from intraq_cli.graph.batch_norms import normalized_outputs
from intraq_cli.graph.outputs import add_batch_norm_outputs, compare_batch_norm_outputs
from intraq_cli.quantization.divergence import kl_at_temperature


@dataclass(frozen=True)
class Fidelity:
    """Metrics on held-out images."""

    n: int = 0
    agreement: float = float("nan")
    """Share of images, in percent, with the same top-1 class in both networks; NaN logits count as disagreement."""
    kl: float = float("nan")
    """Mean divergence of the student's class probabilities from the teacher's, in nats."""
    sqnr: dict[str, float] = field(default_factory=dict)
    """Signal-to-quantization-noise ratio of every batch norm's output, in the order of calls, in dB."""


@torch.no_grad()
def fidelity(
    student: fx.GraphModule, network: Callable[[Tensor], Tensor], teacher: fx.GraphModule, batches: Iterable[Tensor]
) -> Fidelity:
    """Compare a quantized network with its float one on ``batches`` of images ``(B, C, H, W)``, on the same device.

    The signal is the variance of the float values, the noise the mean squared difference. Both are over all images, so
    the batch size does not matter.

    Args:
        student: the quantized network's graph.
        network: the original float network, whose logits agreement and divergence refer to.
        teacher: the graph that ``student`` was made from, perhaps equalized, for the outputs of batch norms.
        batches: batches of images.
    """
    n, same, divergence = 0, 0, 0.0
    powers: list[Tensor] = []
    names = [output.name for output in normalized_outputs(teacher)]
    clean, compared = add_batch_norm_outputs(teacher), compare_batch_norm_outputs(student, _moments_and_noise)
    for x in batches:
        p = network(x)
        _, expected = clean(x)
        q, moments = compared(x, expected)
        n += len(x)
        same += int(((p.argmax(1) == q.argmax(1)) & ~(p + q).isnan().any(1)).sum())
        divergence += len(x) * float(kl_at_temperature(q, p, 1))
        powers.append(torch.stack(moments) * len(x))
    if not n:
        return Fidelity()
    mean, square, noise = (torch.stack(powers).sum(0) / n).unbind(1)
    decibels = (10 * ((square - mean.square()).clamp(min=0) / noise).log10()).tolist()
    return Fidelity(n, 100 * same / n, divergence / n, dict(zip(names, decibels, strict=True)))


def is_clearly_worse(after: Fidelity, before: Fidelity) -> bool:
    """Whether tuning made a network clearly worse: the divergence did not fall, and agreement fell significantly.

    Significant means more than two standard errors of the difference: a few held-out images say little, and tuning may
    lose slightly on clean synthetic images while it gains much on real ones.
    """
    p, q = before.agreement / 100, after.agreement / 100
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / max(1, after.n))
    return not after.kl <= before.kl and p - q > 2 * error


def _moments_and_noise(student: Tensor, teacher: Tensor) -> Tensor:
    moments = [teacher.mean(), teacher.square().mean(), (student - teacher).square().mean()]
    return torch.stack(moments).double()
