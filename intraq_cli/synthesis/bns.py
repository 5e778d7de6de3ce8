"""Batch-norm statistics alignment (BNS): the images' statistics must be those that the network saw in training.

A network with batch norm carries, for every channel of every such layer, the mean and variance of its training data.
BNS pulls the statistics of a synthetic batch towards them (ZeroQ, CVPR 2020; IntraQ, CVPR 2022).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import LayerStatistics


def paper_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l [ MSE(mu_l(x), mu_l) + MSE(var_l(x), var_l) ]``, the published form; a scalar.

    Its terms carry the units of each layer, so a network whose variances differ by orders of magnitude between layers
    has its whole loss in a few of them.
    """
    terms = [F.mse_loss(layer.mean, layer.running_mean) + F.mse_loss(layer.var, layer.running_var) for layer in layers]
    return torch.stack(terms).mean()


def scale_free_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l mean_c [ ((mu_c(x) - mu_c)^2 + (sd_c(x) - sd_c)^2) / (var_c + eps) ]``; a scalar.

    Of moments ``(B, C)``, those of each image alone, ``(B,)``.

    The squared 2-Wasserstein distance between the channel's two Gaussians, in units of what the layer itself divides
    by: every layer and channel counts the same whatever its scale. ``eps`` is the layer's own, so a dead channel
    (variance 1e-35) asks for no more precision than the network can see.
    """
    return torch.stack([channel_distances(layer).mean(-1) for layer in layers]).mean(0)


def channel_distances(layer: LayerStatistics) -> Tensor:
    """The term of each channel in :func:`scale_free_bns_loss`, ``(..., C)``."""
    expected = layer.running_var + layer.eps
    deviation = (layer.var + layer.eps).sqrt() - expected.sqrt()
    return ((layer.mean - layer.running_mean).square() + deviation.square()) / expected
