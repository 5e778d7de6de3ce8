"""Whether a change left what a network computes as it was."""

from collections.abc import Callable

import torch
from torch import Tensor

SAME = 1e-3
"""By how much logits may differ, relative to the spread of the network's own: float32 rounds, and there is TF32."""


@torch.no_grad()
def same_answers(
    network: Callable[[Tensor], Tensor], changed: Callable[[Tensor], Tensor], images: Tensor, tolerance: float = SAME
) -> bool:
    """Whether both give the same logits for ``images`` ``(B, C, H, W)``, up to rounding."""
    wanted, got = network(images.clone()), changed(images.clone())
    if torch.equal(wanted, got):
        return True
    spread = wanted.std().clamp(min=1e-12) if wanted.numel() > 1 else wanted.abs().max()
    return bool((got - wanted).abs().max() <= tolerance * spread)


def relative_error(wanted: Tensor, got: Tensor) -> float:
    """Root mean square of how far logits ``(B, K)`` are off, relative to how the wanted ones differ between images."""
    return float((got - wanted).square().sum().div((wanted - wanted.mean(0)).square().sum()).sqrt())
