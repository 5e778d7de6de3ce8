"""Checks that a change does not alter what a network computes."""

from collections.abc import Callable

import torch
from torch import Tensor

SAME = 1e-3
"""Tolerance of logits, relative to the standard deviation of the network's own: for float32 rounding, and for TF32."""


@torch.no_grad()
def same_logits(
    network: Callable[[Tensor], Tensor], changed: Callable[[Tensor], Tensor], images: Tensor, tolerance: float = SAME
) -> bool:
    """Whether both compute the same logits for ``images`` ``(B, C, H, W)``, up to rounding."""
    wanted, got = network(images.clone()), changed(images.clone())
    if torch.equal(wanted, got):
        return True
    spread = wanted.std().clamp(min=1e-12) if wanted.numel() > 1 else wanted.abs().max()
    return bool((got - wanted).abs().max() <= tolerance * spread)


def relative_error(wanted: Tensor, got: Tensor) -> float:
    """Compute the RMS error of logits ``(B, K)``, relative to the RMS deviation of ``wanted`` from its mean over B."""
    return float((got - wanted).square().sum().div((wanted - wanted.mean(0)).square().sum()).sqrt())
