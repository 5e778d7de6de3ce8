"""The whole loss of stage 1: BNS + SIL + MDC, on what local object reinforcement shows the network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from intraq_cli.batch_norms import BatchNormStatistics
from intraq_cli.recipe import Synthesis
from intraq_cli.synthesis.bns import paper_bns_loss, scale_free_bns_loss
from intraq_cli.synthesis.lor import local_object_reinforcement
from intraq_cli.synthesis.mdc import ClassCentres, marginal_distance_loss
from intraq_cli.synthesis.sil import soft_inception_loss
from intraq_cli.trace import FeatureTap

BNS_LOSSES = {"paper": paper_bns_loss, "scale-free": scale_free_bns_loss}


class Losses(NamedTuple):
    """The parts and their weighted sum; scalars."""

    bns: Tensor
    sil: Tensor
    mdc: Tensor
    total: Tensor


def objective(
    network: nn.Module,
    tap: FeatureTap,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    centres: ClassCentres,
    config: Synthesis,
    generator: torch.Generator,
) -> Losses:
    """One evaluation of the stage 1 loss; differentiable in ``images``.

    Args:
        network: the teacher, in evaluation mode.
        tap: where its features are read.
        images: ``(B, C, H, W)``, normalised.
        labels: ``(B,)``.
        targets: ``(B,)``, SIL's target probabilities.
        centres: class centres of the finished batches.
        config: weights and margins.
        generator: for the crops; on the CPU.
    """
    shown = local_object_reinforcement(images, config.eta, config.lor_probability, config.lor_coin, generator)
    with BatchNormStatistics() as statistics, tap:
        logits = network(shown)
    bns = BNS_LOSSES[config.bns](statistics.layers)
    sil = soft_inception_loss(logits, labels, targets)
    known = centres(labels)
    if known is None or config.mdc_weight == 0:
        mdc = logits.new_zeros(())
    else:
        mdc = marginal_distance_loss(tap.features, *known, config.lambda_lower, config.lambda_upper)
    total = config.bns_weight * bns + config.sil_weight * sil + config.mdc_weight * mdc
    return Losses(bns, sil, mdc, total)
