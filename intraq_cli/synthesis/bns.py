"""Batch-norm statistics alignment (BNS): the statistics of the images should match those of the training data.

A batch norm stores, for every channel, the mean and variance of its input over the training data. BNS pulls the
statistics of a synthetic batch towards them (ZeroQ, CVPR 2020; IntraQ, CVPR 2022).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import LayerStatistics


def paper_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l [ MSE(mu_l(x), mu_l) + MSE(var_l(x), var_l) ]``, the published form; a scalar.

    Its terms depend on the scale of each layer. If variances differ by orders of magnitude between layers, a few layers
    dominate the loss.
    """
    terms = [F.mse_loss(layer.mean, layer.running_mean) + F.mse_loss(layer.var, layer.running_var) for layer in layers]
    return torch.stack(terms).mean()


def scale_free_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l mean_c [ ((mu_c(x) - mu_c)^2 + (sd_c(x) - sd_c)^2) / (var_c + eps) ]``; a scalar.

    For moments ``(B, C)`` of single images, one loss per image, ``(B,)``.

    The squared 2-Wasserstein distance between the channel's two Gaussians, divided by the variance that the layer
    itself normalises by: every layer and channel counts the same, whatever its scale. ``eps`` is the layer's own, so a
    dead channel (variance 1e-35) requires no more precision than the network resolves.
    """
    return torch.stack([channel_distances(layer).mean(-1) for layer in layers]).mean(0)


def channel_distances(layer: LayerStatistics) -> Tensor:
    """Compute the term of each channel in :func:`scale_free_bns_loss`, ``(..., C)``."""
    expected = layer.running_var + layer.eps
    deviation = (layer.var + layer.eps).sqrt() - expected.sqrt()
    return ((layer.mean - layer.running_mean).square() + deviation.square()) / expected
