"""What the quantized network is asked to do: answer like its teacher."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.recipe import Tuning


class TuningLosses(NamedTuple):
    """The parts and their weighted sum; scalars."""

    kl: Tensor
    ce: Tensor
    features: Tensor
    total: Tensor


def kl_at_temperature(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(F / T) || softmax(q / T))``, mean over the batch (Hinton et al. 2015); logits ``(B, K)``."""
    log_q = F.log_softmax(student / temperature, 1)
    log_p = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def feature_distance(student: Iterable[Tensor], teacher: Iterable[Tensor]) -> Tensor:
    """Mean over layers of the squared error in units of the teacher's variance, over (B, H, W) and channels."""
    terms = [F.mse_loss(s, t) / t.var().clamp(min=1e-12) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(terms).mean()


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_features: list[Tensor],
    teacher_features: list[Tensor],
    config: Tuning,
) -> TuningLosses:
    """``kl_weight T^2 KL + ce_weight CE(q(x), y) + feature_weight D``.

    Published: CE + alpha T^2 KL with alpha = T = 20, no D.
    """
    zero = student.new_zeros(())
    kl = kl_at_temperature(student, teacher, config.temperature)
    ce = F.cross_entropy(student, labels) if config.ce_weight else zero
    features = feature_distance(student_features, teacher_features) if config.feature_weight else zero
    total = config.kl_weight * kl + config.ce_weight * ce + config.feature_weight * features
    return TuningLosses(kl, ce, features, total)
