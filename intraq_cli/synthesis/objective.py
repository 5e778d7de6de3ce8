"""The whole loss of stage 1: BNS + SIL + MDC, on what local object reinforcement shows the network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from intraq_cli.graph.batch_norms import BatchNormStatistics, LayerStatistics
from intraq_cli.graph.trace import FeatureTap
from intraq_cli.recipe import Precision, Synthesis
from intraq_cli.runtime.autocast import autocast
from intraq_cli.runtime.compilation import Compiled
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.synthesis.bns import paper_bns_loss, scale_free_bns_loss
from intraq_cli.synthesis.mdc import ClassCentres, marginal_distance_loss
from intraq_cli.synthesis.sil import soft_inception_loss

BNS_LOSSES = {"paper": paper_bns_loss, "scale-free": scale_free_bns_loss}


class Losses(NamedTuple):
    """The parts and their weighted sum; scalars."""

    bns: Tensor
    sil: Tensor
    mdc: Tensor
    total: Tensor


class Seen(NamedTuple):
    """What a network made of images."""

    layers: list[LayerStatistics]
    logits: Tensor
    features: Tensor | None
    """Where they were found, and MDC needs them."""


def look(network: nn.Module, tap: FeatureTap, precision: Precision, x: Tensor) -> Seen:
    """Show images ``x (B, C, H, W)`` to the network."""
    with autocast(precision, x.device), BatchNormStatistics() as statistics, tap:
        logits = network(x)
    return Seen(statistics.layers, logits, tap.features.to(logits.dtype) if tap.module is not None else None)


@dataclass(frozen=True)
class Objective:
    """The stage 1 loss of a batch, as a function of what is shown to the network.

    Args:
        look: what shows the network images, see :func:`look`.
        centres: class centres of the finished batches.
        config: weights and margins.
        micro_batches: how many images go through the network at once.
    """

    look: Compiled[Seen]
    centres: ClassCentres
    config: Synthesis
    micro_batches: MicroBatches

    def with_gradient(self, shown: Tensor, labels: Tensor, targets: Tensor) -> tuple[Losses, Tensor]:
        """The losses, detached, and the gradient of their sum in ``shown``.

        Args:
            shown: ``(B, C, H, W)``, normalised.
            labels: ``(B,)``.
            targets: ``(B,)``, SIL's target probabilities.
        """
        shown = shown.detach()

        def at_once(size: int) -> tuple[Losses, Tensor]:
            if size >= len(shown):
                return self.look.run(lambda look: self._whole(look, shown, labels, targets))
            return self._in_portions(shown, labels, targets, size)

        return self.micro_batches.run(at_once, len(shown))

    @torch.no_grad()
    def of_finished(self, images: Tensor, labels: Tensor, targets: Tensor) -> tuple[Losses, Tensor, Tensor | None]:
        """The losses of finished images as they are, their logits ``(B, K)`` and features ``(B, D)``."""

        def at_once(size: int) -> tuple[Losses, Tensor, Tensor | None]:
            seen = _merged([self.look.function(x) for x in images.split(size)])
            return self._losses(seen, labels, targets), seen.logits, seen.features

        return self.micro_batches.run(at_once, len(images))

    def _whole(
        self, look: Callable[[Tensor], Seen], shown: Tensor, labels: Tensor, targets: Tensor
    ) -> tuple[Losses, Tensor]:
        x = shown.requires_grad_()
        losses = self._losses(look(x), labels, targets)
        (gradient,) = torch.autograd.grad(losses.total, [x])
        return Losses(*(part.detach() for part in losses)), gradient

    def _losses(self, seen: Seen, labels: Tensor, targets: Tensor) -> Losses:
        config = self.config
        bns = BNS_LOSSES[config.bns](seen.layers)
        sil = soft_inception_loss(seen.logits, labels, targets)
        known = self.centres(labels)
        mdc = seen.logits.new_zeros(())
        if known is not None and config.mdc_weight and seen.features is not None:
            mdc = marginal_distance_loss(seen.features, *known, config.lambda_lower, config.lambda_upper)
        total = config.bns_weight * bns + config.sil_weight * sil + config.mdc_weight * mdc
        return Losses(bns, sil, mdc, total)

    def _in_portions(self, shown: Tensor, labels: Tensor, targets: Tensor, size: int) -> tuple[Losses, Tensor]:
        """The same losses and gradient with ``size`` images in memory at once, for one more run of the network.

        Batch statistics are those of the whole batch: a first run without gradients gives them, and the loss's
        gradient in each; a second one carries these on to the images.
        """
        micro_batches = shown.split(size)
        with torch.no_grad():
            seen = _merged([self.look.function(x) for x in micro_batches])
        layers = [layer._replace(mean=_leaf(layer.mean), var=_leaf(layer.var)) for layer in seen.layers]
        logits, features = _leaf(seen.logits), None if seen.features is None else _leaf(seen.features)
        losses = self._losses(Seen(layers, logits, features), labels, targets)
        leaves = [logits, *([] if features is None else [features]), *(t for layer in layers for t in layer[:2])]
        pulls = torch.autograd.grad(losses.total, leaves, allow_unused=True)
        into = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, pulls, strict=True)]
        each = [pull.split(size) for pull in into[: 1 if features is None else 2]]
        moments = list(zip(layers, into[-2 * len(layers) :: 2], into[1 - 2 * len(layers) :: 2], strict=True))
        gradients: list[Tensor] = []
        for k, x in enumerate(micro_batches):
            x = x.detach().requires_grad_()
            own = self.look.function(x)
            share = len(x) / len(shown)
            pulled = (own.logits * each[0][k]).sum()
            if own.features is not None:
                pulled = pulled + (own.features * each[1][k]).sum()
            for (whole, on_mean, on_var), part in zip(moments, own.layers, strict=True):
                # var = E[x^2] - mean^2, and E[x^2] and mean are averages over the micro_batches
                square = part.var + part.mean.square() - 2 * whole.mean.detach() * part.mean
                pulled = pulled + share * (on_mean * part.mean + on_var * square).sum()
            gradients += torch.autograd.grad(pulled, [x])
        return Losses(*(part.detach() for part in losses)), torch.cat(gradients)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _merged(micro_batches: list[Seen]) -> Seen:
    """What the network would have made of all micro_batches at once."""
    if len(micro_batches) == 1:
        return micro_batches[0]
    weights = torch.tensor([len(p.logits) for p in micro_batches], device=micro_batches[0].logits.device)
    shares = (weights / weights.sum())[:, None]
    layers = []
    for same in zip(*(p.layers for p in micro_batches), strict=True):
        means = torch.stack([layer.mean for layer in same])
        mean = (shares * means).sum(0)
        var = (shares * (torch.stack([layer.var for layer in same]) + (means - mean).square())).sum(0)
        layers.append(same[0]._replace(mean=mean, var=var))
    features = [p.features for p in micro_batches if p.features is not None]
    return Seen(layers, torch.cat([p.logits for p in micro_batches]), torch.cat(features) if features else None)
