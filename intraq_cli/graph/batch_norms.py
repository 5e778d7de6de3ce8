"""What enters and leaves batch norms, call by call: to learn from, to compare networks, to correct, to sample."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.graph.dataflow import Call, Dataflow

RATIO = 10.0
"""Largest factor, up or down, by which a variance is corrected: beyond it a channel is dead rather than rescaled."""


class BatchNormCall(NamedTuple):
    """The arguments of a call of ``torch.nn.functional.batch_norm``."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    @property
    def on_images(self) -> bool:
        """Whether it normalises ``(B, C, H, W)`` by running statistics: all others are none of our business."""
        return not self.training and self.running_mean is not None and self.input.dim() == 4


def batch_norm_calls(flow: Dataflow) -> list[tuple[Call, BatchNormCall]]:
    """Those on images, in the order of calls."""
    calls = ((call, BatchNormCall(*call.args, **call.kwargs)) for call in flow.calls if call.func is F.batch_norm)
    return [(call, norm) for call, norm in calls if norm.on_images]


class LayerStatistics(NamedTuple):
    """Statistics of one batch-norm layer's input, and what the layer expects; all ``(C,)`` but ``eps``."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float


class Output(NamedTuple):
    """What a batch norm put out."""

    values: Tensor
    """(B, C, H, W)."""
    variance: Tensor
    """(), over all of ``values``, as its parameters promise it: channels have mean beta and variance gamma^2."""


class _BatchNormCalls(TorchFunctionMode):
    """Within the block, :meth:`_normalize` stands in for every batch norm on images.

    It watches ``torch.nn.functional.batch_norm`` and so needs no hooks and sees subclasses (timm's ``BatchNormAct2d``)
    and functional use alike.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        call = BatchNormCall(*args, **kwargs)
        return self._normalize(call) if call.on_images else func(*call)

    def _normalize(self, call: BatchNormCall) -> Tensor:
        raise NotImplementedError


class BatchNormStatistics(_BatchNormCalls):
    """Within the block, every batch norm also records the statistics of its input.

    ``layers`` holds one :class:`LayerStatistics` per call, in the order of the calls; entering the block empties it.
    Normalisation and statistics share one pass forward and one backward.
    """

    layers: list[LayerStatistics]

    def __enter__(self) -> Self:
        self.layers = []
        super().__enter__()
        return self

    def _normalize(self, call: BatchNormCall) -> Tensor:
        running_mean, running_var = _running(call)
        slope, offset = slope_and_offset(running_mean, running_var, call.weight, call.bias, call.eps)
        out, mean, var = _AffineWithMoments.apply(call.input, slope.detach(), offset.detach())
        self.layers.append(LayerStatistics(mean, var, running_mean, running_var, call.eps))
        return out


class BatchNormOutputs(_BatchNormCalls):
    """Within the block, ``outputs`` collects what batch norms put out, in the order of calls."""

    outputs: list[Output]

    def __enter__(self) -> Self:
        self.outputs = []
        super().__enter__()
        return self

    def _normalize(self, call: BatchNormCall) -> Tensor:
        out = F.batch_norm(*call)
        self.outputs.append(Output(out, _promised_variance(call)))
        return out.clone()  # an activation in place would write over what is kept


class ComparedOutputs(_BatchNormCalls):
    """Within the block, ``results`` collects ``compare(output, expected)`` of every batch norm, in the order of calls.

    Args:
        expected: of another network on the same images, from :class:`BatchNormOutputs`.
        compare: called before anything can write over the output.
    """

    results: list[Tensor]

    def __init__(self, expected: list[Output], compare: Callable[[Tensor, Output], Tensor]) -> None:
        super().__init__()
        self.expected, self.compare = expected, compare

    def __enter__(self) -> Self:
        self.results = []
        super().__enter__()
        return self

    def _normalize(self, call: BatchNormCall) -> Tensor:
        out = F.batch_norm(*call)
        self.results.append(self.compare(out, self.expected[len(self.results)]))
        return out


class SampledOutputs(_BatchNormCalls):
    """Within the block, a batch norm puts out ``N(beta, gamma^2)`` per channel, whatever entered it.

    That is what its statistics promise of real images: ranges and corrections need no image then. The noise is the same
    each time the block is entered; half of its variance is common to all places of a channel, as neighbours agree in
    what real images excite.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def __enter__(self) -> Self:
        self.generator = torch.Generator().manual_seed(self.seed)
        super().__enter__()
        return self

    def _normalize(self, call: BatchNormCall) -> Tensor:
        F.batch_norm(*call)  # for whoever watches outside
        x = call.input
        each = torch.randn(x.shape, generator=self.generator)
        common = torch.randn(*x.shape[:2], 1, 1, generator=self.generator)
        noise = ((each + common) * 0.5**0.5).to(x.device, x.dtype)
        noise = noise if call.weight is None else noise * _channels(call.weight)
        return noise if call.bias is None else noise + _channels(call.bias)


class CorrectedStatistics(_BatchNormCalls):
    """Within the block, batch norms go by statistics corrected for what quantization does to their inputs.

    Each channel's mean and variance move as those of the student differ from the teacher's on the same images, exactly
    so where the student's channel is an affine function of the teacher's; how real the images are hardly matters then.
    Earlier layers count as corrected when a later one is called. In the spirit of bias correction (Nagel et al. 2019),
    for mean and variance, and without data.

    Args:
        clean: statistics of the teacher's batch norms, on the same images.
    """

    def __init__(self, clean: list[LayerStatistics]) -> None:
        super().__init__()
        self.clean = clean
        self.calls = 0
        self.layers: dict[int, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}

    def _normalize(self, call: BatchNormCall) -> Tensor:
        expected = self.clean[self.calls]
        self.calls += 1
        running_mean, running_var = _running(call)
        mean, var = _moments(call.input, running_mean.dtype)
        ratio = ((var + call.eps) / (expected.var + call.eps)).clamp(1 / RATIO, RATIO)
        mean = mean + ratio.sqrt() * (running_mean - expected.mean)
        var = ((running_var + call.eps) * ratio - call.eps).clamp(min=0)
        self.layers.setdefault(id(running_mean), []).append((running_mean, running_var, mean, var))
        return F.batch_norm(*call._replace(running_mean=mean, running_var=var))

    def write(self) -> None:
        """Put the corrected statistics into the network's batch norms; of several calls of one, their average."""
        for calls in self.layers.values():
            running_mean, running_var = calls[0][:2]
            running_mean.copy_(torch.stack([mean for _, _, mean, _ in calls]).mean(0))
            running_var.copy_(torch.stack([var for _, _, _, var in calls]).mean(0))


def _promised_variance(call: BatchNormCall) -> Tensor:
    within = _running(call)[1].new_ones(()) if call.weight is None else call.weight.square().mean()
    return within if call.bias is None else within + call.bias.var(correction=0)


def slope_and_offset(
    running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """What a batch norm does to each channel of its input; ``(C,)`` each, with gradients."""
    slope = (running_var + eps).rsqrt()
    if weight is not None:
        slope = slope * weight
    offset = -running_mean * slope
    return slope, offset if bias is None else offset + bias


def _running(call: BatchNormCall) -> tuple[Tensor, Tensor]:
    assert call.running_mean is not None
    assert call.running_var is not None
    return call.running_mean, call.running_var


class _AffineWithMoments(torch.autograd.Function):
    """``y = slope * x + offset`` per channel, and the mean and biased variance of ``x`` over (B, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _moments(x, slope.dtype)
        ctx.save_for_backward(x, slope, mean)
        return _affine(x, slope, offset), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, None, None]:
        # d mean / d x = 1/n and d var / d x = 2 (x - mean) / n: both are affine in x, per channel
        x, slope, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        pull = 2 * grad_var / n
        push = grad_mean / n - pull * mean
        through = _affine(x, pull, push)
        if x.dtype == slope.dtype:
            return through.addcmul_(grad, _channels(slope)), None, None
        return through.add_(_affine(grad, slope, torch.zeros_like(slope))), None, None


def _moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (B, H, W), ``(C,)`` each; of bfloat16 too they come out in ``dtype``."""
    like = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
    mean, var = torch.batch_norm_update_stats(x, like, torch.ones_like(like), 0.0)
    return mean, var


def _affine(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """``slope * x + offset`` per channel, in ``x``'s type; of bfloat16 computed in ``slope``'s and rounded once."""
    if x.dtype == slope.dtype:
        return torch.addcmul(_channels(offset), x, _channels(slope))
    return F.batch_norm(x, torch.zeros_like(slope), torch.ones_like(slope), slope, offset, eps=0.0)


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]  # (C,) -> (C, 1, 1), against (B, C, H, W)
