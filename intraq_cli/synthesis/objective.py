"""The total loss of stage 1 on images after local object reinforcement, and its gradient in these images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from intraq_cli.choices import Precision
from intraq_cli.graph.batch_norms import LayerStatistics, add_statistics, norm_parameters, statistics
from intraq_cli.graph.outputs import add_features
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime.autocast import in_precision
from intraq_cli.runtime.compilation import Accelerated
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.synthesis.losses import LossInput, Term, terms
from intraq_cli.synthesis.mdc import ClassCentres

Losses = dict[str, Tensor]
"""The terms by name, and their weighted sum as ``total``; scalars."""


class ForwardResult(NamedTuple):
    """The result of a forward pass over images, as the losses need it."""

    layers: list[LayerStatistics]
    logits: Tensor
    features: Tensor | None
    """The classifier's input, ``(B, D)``; None if it does not have one row per image."""


class ForwardWithStatistics(nn.Module):
    """The network's forward pass, with its batch norm statistics and its classifier's input (features).

    Args:
        graph: graph of the float network, on ``device``.
        precision: precision of the recipe.
        device: device to run on.
    """

    def __init__(self, graph: fx.GraphModule, precision: Precision, device: torch.device | str) -> None:
        super().__init__()
        self.step = in_precision(add_statistics(add_features(graph)), precision, device)
        self.norms = norm_parameters(graph)
        self.rows_are_images = True
        """Whether the classifier's input has one row per image, see :meth:`first`."""

    def first(self, x: Tensor) -> ForwardResult:
        """Run for the first time, and find whether features have one row per image, with batches of two sizes.

        A network may fold views, patches or tokens into the batch.
        """
        seen = self(x)
        with torch.no_grad():
            more = self(x[:1].expand(len(x) + 1, -1, -1, -1))
        rows = [None if one.features is None else len(one.features) for one in (seen, more)]
        self.rows_are_images = rows == [len(x), len(x) + 1]
        return seen

    def forward(self, x: Tensor) -> ForwardResult:
        """Run the network on images ``(B, C, H, W)``."""
        (logits, features), moments = self.step(x)
        layers = statistics(self.norms, moments)
        return ForwardResult(layers, logits, features.to(logits.dtype) if self.rows_are_images else None)


@dataclass(frozen=True)
class Objective:
    """The stage 1 loss of a batch, as a function of the images that enter the network.

    Args:
        forward: the forward pass, see :class:`ForwardWithStatistics`.
        centres: class centres of the finished batches.
        config: loss weights and margins.
        bounds: smallest and largest value of a real pixel after normalisation, ``(C,)`` each, on the images' device.
        micro_batches: decides how many images go through the network at once.
    """

    forward: Accelerated[ForwardResult]
    centres: ClassCentres
    config: Synthesis
    bounds: tuple[Tensor, Tensor]
    micro_batches: MicroBatches

    @cached_property
    def terms(self) -> dict[str, Term]:
        """The terms of the loss by name."""
        return terms(self.config)

    def with_gradient(self, shown: Tensor, labels: Tensor, targets: Tensor) -> tuple[Losses, Tensor]:
        """Compute the losses, detached, and the gradient of their weighted sum in ``shown``.

        Args:
            shown: ``(B, C, H, W)``, normalised.
            labels: ``(B,)``.
            targets: ``(B,)``, SIL's target probabilities.
        """
        shown = shown.detach()

        def at_once(size: int) -> tuple[Losses, Tensor]:
            if size >= len(shown):
                return self.forward.run(lambda forward: self._whole(forward, shown, labels, targets))
            return self._in_micro_batches(shown, labels, targets, size)

        return self.micro_batches.run(at_once, len(shown))

    @torch.no_grad()
    def of_finished(self, images: Tensor, labels: Tensor, targets: Tensor) -> tuple[Losses, Tensor, Tensor | None]:
        """Compute the losses of finished, uncropped images, their logits ``(B, K)`` and features ``(B, D)``."""

        def at_once(size: int) -> tuple[Losses, Tensor, Tensor | None]:
            result = _merged([self.forward.function(x) for x in images.split(size)])
            return self._losses(images, result, labels, targets), result.logits, result.features

        return self.micro_batches.run(at_once, len(images))

    def _whole(
        self, forward: Callable[[Tensor], ForwardResult], shown: Tensor, labels: Tensor, targets: Tensor
    ) -> tuple[Losses, Tensor]:
        x = shown.requires_grad_()
        losses = self._losses(x, forward(x), labels, targets)
        (gradient,) = torch.autograd.grad(losses["total"], [x])
        return _detached(losses), gradient

    def _losses(self, shown: Tensor, result: ForwardResult, labels: Tensor, targets: Tensor) -> Losses:
        black, white = (edge[:, None, None] for edge in self.bounds)
        layers, logits, features = result
        centres = self.centres(labels) or (None, None)
        given = LossInput(shown, black, white, logits, labels, targets, features, layers, *centres)
        parts = {name: term.function(given) for name, term in self.terms.items()}
        weighted = (term.weight * parts[name] for name, term in self.terms.items())
        return {**parts, "total": sum(weighted, shown.new_zeros(()))}

    def _in_micro_batches(self, shown: Tensor, labels: Tensor, targets: Tensor, size: int) -> tuple[Losses, Tensor]:
        """Compute the same losses and gradient with ``size`` images in memory at once, at the cost of a second run.

        The batch statistics must be those of the whole batch. A first run without gradients yields them, and with them
        the loss's gradient in each output. A second run backpropagates these gradients to the images.
        """
        micro_batches = shown.split(size)
        with torch.no_grad():
            result = _merged([self.forward.function(x) for x in micro_batches])
        layers = [layer._replace(mean=_leaf(layer.mean), var=_leaf(layer.var)) for layer in result.layers]
        logits, features = _leaf(result.logits), None if result.features is None else _leaf(result.features)
        whole = _leaf(shown)
        losses = self._losses(whole, ForwardResult(layers, logits, features), labels, targets)
        leaves = [whole, logits, *([] if features is None else [features]), *(t for layer in layers for t in layer[:2])]
        gradients_of = torch.autograd.grad(losses["total"], leaves, allow_unused=True)
        direct, *into = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients_of, strict=True)]
        each = [gradient.split(size) for gradient in into[: 1 if features is None else 2]]
        moments = list(zip(layers, into[-2 * len(layers) :: 2], into[1 - 2 * len(layers) :: 2], strict=True))
        gradients: list[Tensor] = []
        for k, x in enumerate(micro_batches):
            x = x.detach().requires_grad_()
            own = self.forward.function(x)
            share = len(x) / len(shown)
            weighted = (own.logits * each[0][k]).sum()
            if own.features is not None:
                weighted = weighted + (own.features * each[1][k]).sum()
            for (full, on_mean, on_var), part in zip(moments, own.layers, strict=True):
                # var = E[x^2] - mean^2, and E[x^2] and mean are averages over the micro-batches
                square = part.var + part.mean.square() - 2 * full.mean.detach() * part.mean
                weighted = weighted + share * (on_mean * part.mean + on_var * square).sum()
            gradients += torch.autograd.grad(weighted, [x])
        return _detached(losses), torch.cat(gradients) + direct


def as_numbers(losses: Losses) -> dict[str, float]:
    """Read the losses from the device in one copy, as numbers by name."""
    return dict(zip(losses, torch.stack([*losses.values()]).tolist(), strict=True))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _detached(losses: Losses) -> Losses:
    return {name: part.detach() for name, part in losses.items()}


def _merged(micro_batches: list[ForwardResult]) -> ForwardResult:
    """Merge the results of micro-batches into the result of the whole batch."""
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
    logits = torch.cat([p.logits for p in micro_batches])
    features = [p.features for p in micro_batches if p.features is not None]
    return ForwardResult(layers, logits, torch.cat(features) if features else None)
