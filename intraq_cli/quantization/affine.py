"""Affine quantization ``q = clamp(round(x / s) + z, 0, top)``, dequantization ``(q - z) s``, and the choice of s and z.

``top`` is ``2^b - 1`` for all codes of b bits.
"""

import math
from typing import Any

import torch
from torch import Tensor

SHRINK = 0.92
"""Ratio between neighbouring candidates of the search for the error-minimising range."""
CANDIDATES = 48
SEARCH_SIZE = 2**20
"""Values per operation of that search: small enough for the cache, large enough to outweigh the call overhead."""
DOT_PART, LEAST_PARTS = 4096, 64
"""Number of bfloat16 values per partial sum of products, and the least number of such partial sums."""
BFLOAT16_TOP = 31
"""Grids of this many steps (5 bits) are coarse compared with bfloat16 (8 bits); finer ones are computed in float32."""

SAMPLE = 2**18
"""Number of values, evenly spaced, from which an activation's range is computed."""


def per_row(values: Tensor, dims: int) -> Tensor:
    """Reshape values ``(out,)`` so that they broadcast over a tensor ``(out, ...)`` with ``dims`` dimensions."""
    return values.view(-1, *[1] * (dims - 1))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, top: int) -> Tensor:
    """Quantize and dequantize; the gradient passes straight through the rounding.

    The gradient of ``x`` is passed on inside the range, and zero outside. The gradient of ``scale`` is that of LSQ
    (Esser et al. 2020), the derivative of ``(clamp(round(x / s), -z, top - z)) s``.

    Args:
        x: any shape; float32, float64, or bfloat16, with a ``scale`` of one element that may be float32.
        scale: positive, broadcastable to ``x``.
        zero_point: integers in [0, top] in ``x``'s type, of ``scale``'s shape.
        top: the largest code.
    """
    # CUDA rounds a one-element scale to bfloat16 in operations with bfloat16 tensors, which distorts the grid
    if x.dtype == torch.bfloat16 and (top > BFLOAT16_TOP or x.is_cuda):
        if scale.dtype == torch.bfloat16:  # the whole network is in bfloat16
            return fake_quantize(x.float(), scale.float(), zero_point.float(), top).bfloat16()
        x = x.float()
    return _FakeQuantize.apply(x, scale, zero_point, top)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, top: int) -> Tensor:
        out = torch.div(x, scale).round_()
        _clamp(out, -zero_point, top - zero_point, out).mul_(scale)
        ctx.save_for_backward(x, scale, zero_point, out)
        ctx.top = top
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, scale, zero_point, out = ctx.saved_tensors
        # half a step beyond the last grid point still rounds to it without being clipped
        grad_x = _inside(grad, x, (-zero_point - 0.5) * scale, (ctx.top - zero_point + 0.5) * scale)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        # d out / d s = round(x/s) - x/s inside, -z or top - z outside; both are (out - x inside) / s
        if scale.numel() > 1:
            product = torch.addcmul(grad * out, grad_x, x, value=-1).sum_to_size(scale.shape)
        else:
            product = _dot(grad, out) - _dot(grad_x, x)
        grad_scale = product / scale
        return grad_x, grad_scale.reshape(scale.shape), None, None


def _clamp(x: Tensor, low: Tensor, high: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute ``torch.clamp`` without its slow path for tensor bounds (seven times slower on CPUs)."""
    if _at_hand(low):
        return torch.clamp(x, low.item(), high.item(), out=out)
    out = torch.maximum(x, low, out=out)
    return torch.minimum(out, high, out=out)


def _inside(grad: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ``grad``, of ``x``'s shape, where ``x`` lies between the bounds, and 0 elsewhere."""
    if _at_hand(low):  # one pass instead of four
        return torch.ops.aten.hardtanh_backward(grad, x, low.item(), high.item())
    return _clamp(x, low, high).eq_(x).mul(grad)


def _at_hand(bound: Tensor) -> bool:
    """Whether a bound is a single number that can be read without a GPU synchronization or a graph break."""
    return bound.numel() == 1 and bound.device.type == "cpu" and not torch.compiler.is_compiling()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products, ``()``; bfloat16 is summed in float32, as callers subtract two nearly equal such sums."""
    if a.dim() == 4:  # both are channels-last; this view flattens without a copy
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    a, b = a.reshape(-1), b.reshape(-1)
    if a.dtype != torch.bfloat16:
        return torch.dot(a, b)
    part = min(a.numel() & -a.numel(), DOT_PART)  # a power of two that divides it
    a, b = a.view(-1, part), b.view(-1, part)
    if torch.compiler.is_compiling() or len(a) < LEAST_PARTS or part < DOT_PART // 16:
        return (a.float() * b.float()).sum(1).sum()  # a compiler fuses this with the operations around it
    # each partial sum is rounded to bfloat16; over this many, the rounding errors average out
    return torch.bmm(a[:, None], b[:, :, None]).sum(dtype=torch.float32)


def round_straight_through(x: Tensor) -> Tensor:
    """Round to the nearest integers; the gradient passes straight through."""
    return _Round.apply(x)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def grid_of_range(low: Tensor, high: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Compute the scale and zero-point of the grid that spans [low, high], widened to include zero exactly."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / top
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, 1.0)  # a row of zeros: any scale will do
    return scale, (-low / scale).round().clamp(0, top)


def range_of_grid(scale: Tensor, zero_point: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Compute the smallest and the largest value on a grid."""
    return -zero_point * scale, (top - zero_point) * scale


def joined_grid(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], top: int) -> tuple[Tensor, Tensor]:
    """Compute the grid that spans the ranges of two grids, each a scale and a zero-point, ``()``."""
    (low, high), (other_low, other_high) = range_of_grid(*a, top), range_of_grid(*b, top)
    return grid_of_range(torch.minimum(low, other_low), torch.maximum(high, other_high), top)


def mse_grid(
    rows: Tensor, top: int, symmetric: bool = False, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the scale and zero-point of each row that (nearly) minimise its squared quantization error.

    Shrinks the range from both ends together, then each end by itself. Returns scale and zero-point, ``(R,)`` each.

    Args:
        rows: values, ``(R, n)``.
        top: the largest code.
        symmetric: the zero-point is half of ``top``.
        importance: ``(R, n)``, weight of each value's squared error; None: all equal.
    """
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    together = SHRINK ** torch.arange(CANDIDATES, device=rows.device, dtype=rows.dtype)[:, None]
    # steps of 2 %, with 1 among the factors: the search never ends worse than it began
    nearby = 1 + 0.02 * torch.arange(-8, 9, device=rows.device, dtype=rows.dtype)[:, None]
    if symmetric:
        high = torch.maximum(-low, high)
        for factors in (together, nearby):
            high = _best_range(rows, -high * factors, high * factors, top, importance)[1]
        return grid_of_range(-high, high, top)
    low, high = _best_range(rows, low * together, high * together, top, importance)
    for _ in range(2):
        low, high = _best_range(rows, low.expand(len(nearby), -1), high * nearby, top, importance)
        low, high = _best_range(rows, low * nearby, high.expand(len(nearby), -1), top, importance)
    return grid_of_range(low, high, top)


def _best_range(rows: Tensor, low: Tensor, high: Tensor, top: int, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose each row's candidate range, of ``(K, R)``, with the least squared error; returns ``(R,)`` twice."""
    scale, zero_point = grid_of_range(low, high, top)
    at_once = max(1, SEARCH_SIZE // rows.numel())
    errors = []
    for s, z in zip(scale.split(at_once), zero_point.split(at_once), strict=True):
        error = fake_quantize(rows.expand(len(s), -1, -1), s[:, :, None], z[:, :, None], top).sub_(rows).square_()
        errors.append((error if importance is None else error.mul_(importance)).mean(2))
    best = torch.cat(errors).argmin(0, keepdim=True)
    return low.gather(0, best)[0], high.gather(0, best)[0]


def grid_of_values(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Compute scale and zero-point, ``()`` each, that err least on a sample of ``x``; codes are 0 to ``top``."""
    flat = x.flatten()
    step = max(1, len(flat) // SAMPLE)
    while math.gcd(step, len(flat)) > 1:  # otherwise the sample might miss whole columns or channels
        step += 1
    sample = flat[::step]
    # the extremes stay in the sample: the search starts from the full range
    sample = torch.cat([sample, flat.amin()[None], flat.amax()[None]])
    scale, zero_point = mse_grid(sample[None], top)
    return scale[0], zero_point[0]
