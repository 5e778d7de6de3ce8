"""Batch-norm statistics alignment (BNS): the images' statistics must be those that the network saw in training.

A network with batch norm carries, for every channel of every such layer, the mean and variance of its training data.
BNS pulls the statistics of a synthetic batch towards them (ZeroQ, CVPR 2020; IntraQ, CVPR 2022).
"""

from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class LayerStatistics(NamedTuple):
    """Statistics of one batch-norm layer's input, and what the layer expects; all ``(C,)`` but ``eps``."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float


class BatchNormStatistics(TorchFunctionMode):
    """Within the block, every batch norm in evaluation mode also records the statistics of its input.

    ``layers`` holds one :class:`LayerStatistics` per call, in the order of the calls; entering the block empties it.
    It watches ``torch.nn.functional.batch_norm`` and so needs no hooks and sees subclasses (timm's ``BatchNormAct2d``)
    and functional use alike. Normalisation and statistics share one pass forward and one backward.
    """

    layers: list[LayerStatistics]

    def __enter__(self) -> Self:
        self.layers = []
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        if "input" in kwargs:
            args, kwargs = (kwargs["input"], *args), {k: v for k, v in kwargs.items() if k != "input"}
        return self._normalize(*args, **kwargs)

    def _normalize(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None or x.dim() != 4:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        slope = (running_var + eps).rsqrt()
        if weight is not None:
            slope = slope * weight
        offset = -running_mean * slope
        if bias is not None:
            offset = offset + bias
        out, mean, var = _AffineWithMoments.apply(x, slope.detach(), offset.detach())
        self.layers.append(LayerStatistics(mean, var, running_mean, running_var, eps))
        return out


class _AffineWithMoments(torch.autograd.Function):
    """``y = slope * x + offset`` per channel, and the mean and biased variance of ``x`` over (B, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        ctx.save_for_backward(x, slope, mean)
        return torch.addcmul(_channels(offset), x, _channels(slope)), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, None, None]:
        # d mean / d x = 1/n and d var / d x = 2 (x - mean) / n: both are affine in x, per channel
        x, slope, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        pull = 2 * grad_var / n
        push = grad_mean / n - pull * mean
        return torch.addcmul(torch.addcmul(_channels(push), x, _channels(pull)), grad, _channels(slope)), None, None


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]  # (C,) -> (C, 1, 1), against (B, C, H, W)


def paper_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l [ MSE(mu_l(x), mu_l) + MSE(var_l(x), var_l) ]``, the published form; a scalar.

    Its terms carry the units of each layer, so a network whose variances differ by orders of magnitude between layers
    has its whole loss in a few of them.
    """
    terms = [F.mse_loss(layer.mean, layer.running_mean) + F.mse_loss(layer.var, layer.running_var) for layer in layers]
    return torch.stack(terms).mean()


def scale_free_bns_loss(layers: list[LayerStatistics]) -> Tensor:
    """``mean_l mean_c [ ((mu_c(x) - mu_c)^2 + (sd_c(x) - sd_c)^2) / (var_c + eps) ]``; a scalar.

    The squared 2-Wasserstein distance between the channel's two Gaussians, in units of what the layer itself divides
    by: every layer and channel counts the same whatever its scale. ``eps`` is the layer's own, so a dead channel
    (variance 1e-35) asks for no more precision than the network can see.
    """
    terms = []
    for layer in layers:
        expected = layer.running_var + layer.eps
        deviation = (layer.var + layer.eps).sqrt() - expected.sqrt()
        terms.append((((layer.mean - layer.running_mean).square() + deviation.square()) / expected).mean())
    return torch.stack(terms).mean()
