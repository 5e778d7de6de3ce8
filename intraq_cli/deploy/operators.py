"""ONNX operators as functions that a graph calls; ``torch.onnx`` writes each as the node of the same name.

They compute nothing in torch. To check a file, run it in onnxruntime (:mod:`intraq_cli.deploy.session`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.onnx.ops import symbolic


def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Quantize ``x`` (any shape) to the dtype of ``zero_point``; ``scale`` and ``zero_point`` are ``()``."""
    return symbolic("QuantizeLinear", (x, scale, zero_point), dtype=zero_point.dtype, shape=x.shape)


def clip(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip codes to the range from ``low`` to ``high``, ``()`` each."""
    return symbolic("Clip", (codes, low, high), dtype=codes.dtype, shape=codes.shape)


def dequantize_linear(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Dequantize codes; ``scale`` and ``zero_point`` are ``()``, or ``(out,)`` along the first dimension."""
    axis: dict[str, Any] = {"axis": 0} if scale.dim() else {}
    return symbolic("DequantizeLinear", (codes, scale, zero_point), attrs=axis, dtype=torch.float32, shape=codes.shape)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Convolve ``x`` ``(B, C, H, W)``; ``pads`` are top, left, bottom, right."""
    kernel = weight.shape[2:]
    size = [
        (x.shape[2 + k] + pads[k] + pads[2 + k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in (0, 1)
    ]
    return symbolic(
        "Conv",
        (x, weight) if bias is None else (x, weight, bias),
        attrs={
            "kernel_shape": list(kernel),
            "strides": list(stride),
            "pads": list(pads),
            "dilations": list(dilation),
            "group": groups,
        },
        dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0], *size),
    )


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer to ``x`` ``(N, in)``."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    shape = (x.shape[0], weight.shape[0])
    return symbolic("Gemm", inputs, attrs={"transB": 1}, dtype=x.dtype, shape=shape)


def global_average_pool(x: Tensor) -> Tensor:
    """Average ``x`` ``(B, C, H, W)`` over all positions: ``(B, C, 1, 1)``."""
    return symbolic("GlobalAveragePool", (x,), dtype=x.dtype, shape=(*x.shape[:2], 1, 1))
