"""What batch norms put out, call by call: to compare student and teacher, to correct, to sample."""

import inspect
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.synthesis.bns import LayerStatistics

RATIO = 10.0
"""Largest factor, up or down, by which a variance is corrected: beyond it a channel is dead rather than rescaled."""


class _BatchNormCalls(TorchFunctionMode):
    """Within the block, :meth:`_normalize` stands in for every call of ``torch.nn.functional.batch_norm`` on images."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        x, *rest = args if args else (kwargs.pop("input"),)
        return self._normalize(x, *rest, **kwargs) if x.dim() == 4 else func(x, *rest, **kwargs)

    def _normalize(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


class BatchNormOutputs(_BatchNormCalls):
    """Within the block, ``outputs`` collects what batch norms put out, ``(B, C, H, W)`` each, in the order of calls."""

    outputs: list[Tensor]

    def __enter__(self) -> Self:
        self.outputs = []
        super().__enter__()
        return self

    def _normalize(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = F.batch_norm(x, *args, **kwargs)
        self.outputs.append(out)
        return out.clone()  # an activation in place would write over what is kept


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

    def _normalize(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        affine = inspect.signature(F.batch_norm).bind(x, *args, **kwargs).arguments
        F.batch_norm(x, *args, **kwargs)  # for whoever watches outside
        weight, bias = affine.get("weight"), affine.get("bias")
        each = torch.randn(x.shape, generator=self.generator)
        common = torch.randn(*x.shape[:2], 1, 1, generator=self.generator)
        noise = ((each + common) * 0.5**0.5).to(x.device, x.dtype)
        noise = noise if weight is None else noise * weight[:, None, None]
        return noise if bias is None else noise + bias[:, None, None]


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

    def _normalize(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        expected = self.clean[self.calls]
        self.calls += 1
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        ratio = ((var + eps) / (expected.var + eps)).clamp(1 / RATIO, RATIO)
        mean = mean + ratio.sqrt() * (running_mean - expected.mean)
        var = ((running_var + eps) * ratio - eps).clamp(min=0)
        self.layers.setdefault(id(running_mean), []).append((running_mean, running_var, mean, var))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    def write(self) -> None:
        """Put the corrected statistics into the network's batch norms; of several calls of one, their average."""
        for calls in self.layers.values():
            running_mean, running_var = calls[0][:2]
            running_mean.copy_(torch.stack([mean for _, _, mean, _ in calls]).mean(0))
            running_var.copy_(torch.stack([var for _, _, _, var in calls]).mean(0))
