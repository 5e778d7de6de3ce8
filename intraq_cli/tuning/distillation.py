"""The distillation loss: the quantized network's outputs should match its teacher's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.quantization.divergence import kl_at_temperature
from intraq_cli.recipe import Tuning

LEAST_VARIANCE = 0.01
"""Lower bound of the variance of a batch norm's output by which errors are divided. Without it, errors smaller than a
tuning step would dominate the loss at a batch norm with almost constant output (an unused residual branch)."""


class Output(NamedTuple):
    """The output of one of the teacher's batch norms."""

    values: Tensor
    """(B, C, H, W)."""
    variance: Tensor
    """(), over all of ``values``, computed from the batch norm's parameters."""


class TuningLosses(NamedTuple):
    """The terms of the loss and their weighted sum; scalars."""

    kl: Tensor
    ce: Tensor
    features: Tensor
    total: Tensor


def feature_distance(student: Tensor, teacher: Output) -> Tensor:
    """Compute the mean squared error over ``(B, C, H, W)``, divided by the teacher's ``variance``; a scalar.

    The variance is at least :data:`LEAST_VARIANCE`.
    """
    return squared_error(student, teacher.values) / teacher.variance.clamp(min=LEAST_VARIANCE)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute ``F.mse_loss`` with its gradient in ``student``'s memory layout: another would slow down what follows."""
    return _SquaredError.apply(student, teacher)


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        difference = student - teacher
        ctx.save_for_backward(difference)
        # per image: several times faster than one norm in float32, and bfloat16 rounding errors average out
        norms = torch.linalg.vector_norm(difference, dim=tuple(range(1, difference.dim())))
        return norms.to(torch.promote_types(norms.dtype, torch.float32)).square().sum() / difference.numel()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * grad / difference.numel()), None


def ignorance(teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL`` of a network that outputs equal probabilities for all classes; ``teacher`` logits ``(B, K)``."""
    return kl_at_temperature(torch.zeros_like(teacher), teacher, temperature)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, distances: list[Tensor], config: Tuning
) -> TuningLosses:
    """``kl_weight T^2 KL + ce_weight CE(q(x), y) + feature_weight D``; D is the mean of ``distances``.

    Published: CE + alpha T^2 KL with alpha = T = 20, no D.
    """
    zero = student.new_zeros(())
    kl = kl_at_temperature(student, teacher, config.temperature)
    ce = F.cross_entropy(student, labels) if config.ce_weight else zero
    features = torch.stack(distances).mean() if distances else zero
    total = config.kl_weight * kl + config.ce_weight * ce + config.feature_weight * features
    return TuningLosses(kl, ce, features, total)
