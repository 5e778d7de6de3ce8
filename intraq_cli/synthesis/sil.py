"""Soft inception loss (SIL): half of the images aim for less than full confidence (IntraQ, CVPR 2022)."""

import torch
from torch import Tensor


def draw_targets(n: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """Draw target probabilities ``(n,)``, once per batch: ``t ~ U(epsilon, 1)`` or ``t = 1``, with probability 1/2."""
    soft = torch.empty(n).uniform_(epsilon, 1, generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.5, soft, 1.0)


def soft_inception_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """``mean_i (p_y - t)^2``, ``p = softmax(logits)`` (IntraQ); a scalar.

    Only the probability of the image's own class counts. ``logits (B, K)``, ``labels (B,)``, ``targets (B,)``.
    """
    own = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return (own - targets).square().mean()
