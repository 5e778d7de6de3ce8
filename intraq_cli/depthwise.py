"""Depthwise convolutions with a stride, on CPUs that compute in bfloat16."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from intraq_cli.trace import LayerCall

Pair = tuple[int, int]


def is_strided_depthwise(x: Tensor, weight: Tensor, call: LayerCall) -> bool:
    """Whether a call of ``F.conv2d`` is one that :func:`strided_depthwise` can do."""
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **call.settings}
    if x.dim() != 4 or not len(weight) == x.shape[1] == settings["groups"] > 1 or isinstance(settings["padding"], str):
        return False
    stride, padding, dilation = (_pair(settings[name]) for name in ("stride", "padding", "dilation"))
    fits = all(pad < size for pad, size in zip(padding, weight.shape[2:], strict=True))
    return fits and max(stride) > 1 and max(dilation) == 1


def strided_depthwise(x: Tensor, weight: Tensor, call: LayerCall) -> Tensor:
    """``call(x, weight)`` in bfloat16, with another way to the gradient of ``x``.

    In bfloat16 the library has no kernel for it but a plain loop, up to a hundred times slower than the way forward. A
    convolution of stride 1 with the flipped weight does the same, on the gradient with zeros between its values.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(C, 1, h, w)``.
        call: for which :func:`is_strided_depthwise` holds.
    """
    settings = call.settings
    stride, padding = _pair(settings["stride"]), _pair(settings.get("padding", 0))
    bias = settings.get("bias")
    bias = None if bias is None else bias.bfloat16()
    out: Tensor = _StridedDepthwise.apply(x.bfloat16(), weight.bfloat16(), bias, stride, padding)
    return out


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        groups, kernel = len(weight), weight.shape[2:]
        grad_x = None
        if ctx.needs_input_grad[0]:
            full = [x.shape[2 + k] + 2 * padding[k] - kernel[k] + 1 for k in (0, 1)]  # of the output of stride 1
            spread = torch.zeros(len(x), groups, *full, dtype=grad.dtype, device=grad.device).contiguous(
                memory_format=torch.channels_last
            )
            spread[..., :: stride[0], :: stride[1]] = grad
            rest = [kernel[k] - 1 - padding[k] for k in (0, 1)]
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, rest, groups=groups)
        wanted = [False, ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [groups] if ctx.has_bias else None, stride, padding, (1, 1), False, (0, 0), groups, wanted
        )
        return grad_x, grad_weight, grad_bias, None, None
