"""Depthwise convolutions with a stride, on CPUs that compute in bfloat16."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.graph.trace import LayerCall, pair

Pair = tuple[int, int]


def is_strided_depthwise(x: Tensor, weight: Tensor, call: LayerCall) -> bool:
    """Whether a call of ``F.conv2d`` is one that :func:`strided_depthwise` can do."""
    given = call.settings
    if x.dim() != 4 or not len(weight) == x.shape[1] == given["groups"] > 1 or isinstance(given["padding"], str):
        return False
    fits = all(pad < size for pad, size in zip(pair(given["padding"]), weight.shape[2:], strict=True))
    return fits and max(pair(given["stride"])) > 1 and max(pair(given["dilation"])) == 1


def strided_depthwise(x: Tensor, weight: Tensor, call: LayerCall) -> Tensor:
    """``call(x, weight)`` in bfloat16, with another way to the gradient of ``x``.

    In bfloat16 the library has no kernel for it but a plain loop, up to a hundred times slower than the way forward. A
    convolution of stride 1 with the flipped weight does the same, on the gradient with zeros between its values.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(C, 1, h, w)``.
        call: for which :func:`is_strided_depthwise` holds.
    """
    given = call.settings
    bias = None if given["bias"] is None else given["bias"].bfloat16()
    stride, padding = pair(given["stride"]), pair(given["padding"])
    out: Tensor = _StridedDepthwise.apply(x.bfloat16(), weight.bfloat16(), bias, stride, padding)
    return out


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        groups, kernel = len(weight), weight.shape[2:]
        grad_x = None
        if ctx.needs_input_grad[0]:
            full = [x.shape[2 + k] + 2 * padding[k] - kernel[k] + 1 for k in (0, 1)]  # of the output of stride 1
            spread = torch.empty(len(x), groups, *full, dtype=grad.dtype, memory_format=torch.channels_last).zero_()
            spread[..., :: stride[0], :: stride[1]] = grad
            rest = [kernel[k] - 1 - padding[k] for k in (0, 1)]
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, rest, groups=groups)
        wanted = [False, *ctx.needs_input_grad[1:3]]
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [groups], stride, padding, (1, 1), False, (0, 0), groups, wanted
        )
        return grad_x, grad_weight, grad_bias, None, None
