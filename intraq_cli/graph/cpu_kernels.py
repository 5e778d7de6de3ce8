"""Passes that avoid incorrect or slow CPU kernels of torch in training steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.graph.nodes import arguments, calls, copy_graph, finish, pair, replace_call

aten = torch.ops.aten
Pair = tuple[int, int]


def slice_strided_pointwise(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: run 1x1 convolutions with stride 2 and fewer than 8 input channels on every second pixel with stride 1.

    torch 2.15 corrupts memory in the weight gradient of such a convolution in channels-last layout.
    """
    graph = copy_graph(graph)
    for node in calls(graph, aten.conv2d.default):
        given = arguments(node)
        shape = node.meta["weight_shape"]
        if shape[1] < 8 and shape[2:] == (1, 1) and pair(given["stride"]) == (2, 2) and not any(given["padding"]):
            args = given["input"], given["weight"], given["bias"], given["groups"]
            replace_call(graph, node, every_second_pixel, *args)
    return finish(graph)


def every_second_pixel(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Compute a 1x1 convolution with stride 2 on ``x`` ``(B, C, H, W)``."""
    return F.conv2d(x[..., ::2, ::2], weight, bias, groups=groups)


def _in_float32(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """Wrap ``function`` of an input and a weight to run in the weight's type, without autocast."""

    def run(x: Tensor, weight: Tensor, *settings: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return function(x.to(weight.dtype), weight, *settings)

    run.__name__ = run.__qualname__ = f"{name}_in_float32"
    return run


conv2d_in_float32 = _in_float32(F.conv2d, "conv2d")
IN_FLOAT32: dict[Any, Callable[..., Tensor]] = {
    aten.linear.default: _in_float32(F.linear, "linear"),
    **dict.fromkeys((aten.conv3d.default, aten.conv3d.padding), _in_float32(F.conv3d, "conv3d")),
    aten.conv_transpose1d.default: _in_float32(F.conv_transpose1d, "conv_transpose1d"),
    aten.conv_transpose2d.input: _in_float32(F.conv_transpose2d, "conv_transpose2d"),
    aten.conv_transpose3d.input: _in_float32(F.conv_transpose3d, "conv_transpose3d"),
}
"""Linear layers, and so the logits; and convolutions whose gradients torch 2.15 corrupts on CPUs."""


def bfloat16_kernels(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: prepare a graph for ``torch.autocast`` in bfloat16: keep some operations in float32, replace a slow kernel.

    Operations of :data:`IN_FLOAT32` stay in float32, and so do convolutions whose stride exceeds their input map: torch
    2.15 corrupts the gradient of their weight on CPUs. For strided depthwise convolutions, the gradient of the input is
    computed in another way on CPUs.
    """
    graph = copy_graph(graph)
    for node in calls(graph, *IN_FLOAT32):
        replace_call(graph, node, IN_FLOAT32[node.target], *arguments(node).values())
    for node in calls(graph, aten.conv2d.default):
        given = arguments(node)
        if _exceeds_map(given):
            replace_call(graph, node, conv2d_in_float32, *given.values())
        elif _is_strided_depthwise(node, given):
            settings = pair(given["stride"]), pair(given["padding"])
            replace_call(graph, node, strided_depthwise, given["input"], given["weight"], given["bias"], *settings)
    return finish(graph)


def _exceeds_map(given: dict[str, Any]) -> bool:
    """Whether a convolution's stride exceeds the size of its input map in a dimension."""
    sides = given["input"].meta["shape"][-2:]
    return any(stride > side for stride, side in zip(pair(given["stride"]), sides, strict=True))


def _is_strided_depthwise(node: fx.Node, given: dict[str, Any]) -> bool:
    channels, per_group, *kernel = node.meta["weight_shape"]
    if per_group != 1 or not channels == given["groups"] > 1:
        return False
    fits = all(pad < size for pad, size in zip(pair(given["padding"]), kernel, strict=True))
    return fits and max(given["stride"]) > 1 and max(given["dilation"]) == 1


def strided_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Compute a depthwise convolution in bfloat16, with another method for the gradient of ``x`` on CPUs.

    For that gradient in bfloat16, torch's library has only a plain loop, up to a hundred times slower than the forward
    pass. A stride-1 convolution of the gradient, with zeros between its values, with the flipped weight is equivalent.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(C, 1, h, w)``.
        bias: ``(C,)``, or None.
        stride: vertical and horizontal.
        padding: vertical and horizontal, less than the kernel size.
    """
    if weight.dtype != torch.float32:  # torch.autocast would not convert it to bfloat16
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    bias = None if bias is None else bias.bfloat16()
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.conv2d(x.bfloat16(), weight.bfloat16(), bias, stride, padding, groups=len(weight))
    return _StridedDepthwise.apply(x.bfloat16(), weight.bfloat16(), bias, stride, padding)


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
            full = [x.shape[2 + k] + 2 * padding[k] - kernel[k] + 1 for k in (0, 1)]  # output size with stride 1
            spread = torch.empty(len(x), groups, *full, dtype=grad.dtype, memory_format=torch.channels_last).zero_()
            spread[..., :: stride[0], :: stride[1]] = grad
            rest = [kernel[k] - 1 - padding[k] for k in (0, 1)]
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, rest, groups=groups)
        wanted = [False, *ctx.needs_input_grad[1:3]]
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [groups], stride, padding, (1, 1), False, (0, 0), groups, wanted
        )
        return grad_x, grad_weight, grad_bias, None, None
