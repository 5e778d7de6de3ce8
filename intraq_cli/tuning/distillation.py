"""What the quantized network is asked to do: answer like its teacher."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.quantization.divergence import kl_at_temperature
from intraq_cli.recipe import Tuning

LEAST_VARIANCE = 0.01
"""Of a batch norm's output, where errors are compared with it: a smaller step than tuning takes would outweigh all else
behind one that puts out nothing (a residual branch that was never used)."""


class Output(NamedTuple):
    """What a batch norm of the teacher put out."""

    values: Tensor
    """(B, C, H, W)."""
    variance: Tensor
    """(), over all of ``values``, as the batch norm's parameters state it."""


class TuningLosses(NamedTuple):
    """The parts and their weighted sum; scalars."""

    kl: Tensor
    ce: Tensor
    features: Tensor
    total: Tensor


def feature_distance(student: Tensor, teacher: Output) -> Tensor:
    """Mean squared error over ``(B, C, H, W)``, in units of the variance by the teacher's batch norm; a scalar.

    That variance counts as :data:`LEAST_VARIANCE` where it is smaller.
    """
    return squared_error(student, teacher.values) / teacher.variance.clamp(min=LEAST_VARIANCE)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``F.mse_loss``, but with a gradient in the memory layout of ``student``: another would slow down what follows."""
    return _SquaredError.apply(student, teacher)


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        difference = student - teacher
        ctx.save_for_backward(difference)
        # image by image: several times faster than a norm of all in float32, and the rounding of bfloat16 averages out
        norms = torch.linalg.vector_norm(difference, dim=tuple(range(1, difference.dim())))
        return norms.to(torch.promote_types(norms.dtype, torch.float32)).square().sum() / difference.numel()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * grad / difference.numel()), None


def ignorance(teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL`` of a network that gives all classes the same, whatever the image; ``teacher`` logits ``(B, K)``."""
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
