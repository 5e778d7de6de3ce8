"""Affine quantization, ``q = clamp(round(x / s) + z, 0, top)`` and back, ``(q - z) s``; where s and z come from.

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
"""Values looked at in one operation of that search: small enough for a cache, large enough to be worth a call."""
DOT_PART, LEAST_PARTS = 4096, 64
"""Values of bfloat16 that are multiplied and summed in one go, and the least number of such sums."""
BFLOAT16_TOP = 31
"""Grids of so many steps (5 bits) are coarse beside bfloat16 itself (8 bits); finer ones are computed in float32."""

SAMPLE = 2**18
"""Values, evenly spread, from which an activation's range is taken."""


def per_row(values: Tensor, dims: int) -> Tensor:
    """Values ``(out,)``, one for each row of a tensor ``(out, ...)`` of so many dimensions, as they multiply it."""
    return values.view(-1, *[1] * (dims - 1))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, top: int) -> Tensor:
    """Quantize and dequantize; the gradient passes straight through the rounding.

    Inside the range ``x`` receives the gradient, outside of it none does; ``scale`` receives that of LSQ (Esser et al.
    2020), the derivative of ``(clamp(round(x / s), -z, top - z)) s``.

    Args:
        x: any shape; float32, float64, or bfloat16, with a ``scale`` of one element that may be float32.
        scale: positive, broadcastable to ``x``.
        zero_point: whole numbers in [0, top] in ``x``'s type, of ``scale``'s shape.
        top: the largest code.
    """
    # CUDA rounds a scale of one element to bfloat16 where it meets such values, and with it the grid
    if x.dtype == torch.bfloat16 and (top > BFLOAT16_TOP or x.is_cuda):
        if scale.dtype == torch.bfloat16:  # the whole network is
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
    """``torch.clamp``, which on CPUs is seven times slower where the bounds are tensors."""
    if _at_hand(low):
        return torch.clamp(x, low.item(), high.item(), out=out)
    out = torch.maximum(x, low, out=out)
    return torch.minimum(out, high, out=out)


def _inside(grad: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``grad``, of ``x``'s shape, where ``x`` lies between the bounds, and 0 elsewhere."""
    if _at_hand(low):  # one pass in place of four
        return torch.ops.aten.hardtanh_backward(grad, x, low.item(), high.item())
    return _clamp(x, low, high).eq_(x).mul(grad)


def _at_hand(bound: Tensor) -> bool:
    """Whether a bound is a number that can be had without waiting: for a GPU, or for a compiler."""
    return bound.numel() == 1 and bound.device.type == "cpu" and not torch.compiler.is_compiling()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products, ``()``; of bfloat16 in float32: two such sums may differ by less than bfloat16 can tell."""
    if a.dim() == 4:  # both are dense in the same order; a view keeps the pass free of copies
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    a, b = a.reshape(-1), b.reshape(-1)
    if a.dtype != torch.bfloat16:
        return torch.dot(a, b)
    part = min(a.numel() & -a.numel(), DOT_PART)  # a power of two that divides it
    a, b = a.view(-1, part), b.view(-1, part)
    if torch.compiler.is_compiling() or len(a) < LEAST_PARTS or part < DOT_PART // 16:
        return (a.float() * b.float()).sum(1).sum()  # a compiler makes this part of the passes around it
    # each part comes out in bfloat16: of so many, the rounding averages out
    return torch.bmm(a[:, None], b[:, :, None]).sum(dtype=torch.float32)


def round_to_step(x: Tensor, step: Tensor) -> Tensor:
    """The nearest whole multiple of ``step``, of ``x``'s shape; the gradient passes straight through to ``x``."""
    step = step.detach()
    return round_straight_through(x / step) * step


def round_straight_through(x: Tensor) -> Tensor:
    """The nearest whole numbers, of ``x``'s shape; the gradient passes straight through."""
    return _Round.apply(x)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def grid_of_range(low: Tensor, high: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale and zero-point whose grid spans [low, high] widened to hold zero; zero is exactly on the grid."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / top
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, 1.0)  # a row of zeros: any scale will do
    return scale, (-low / scale).round().clamp(0, top)


def mse_grid(
    rows: Tensor, top: int, symmetric: bool = False, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scale and zero-point of each row that make its squared quantization error (nearly) smallest.

    Shrinks the range from both ends together, then each end by itself. ``rows (R, n)``; returns ``(R,)`` twice.

    Args:
        rows: values.
        top: the largest code.
        symmetric: the zero-point is half of ``top``.
        importance: ``(R, n)``, how much the squared error of each value counts; None: all the same.
    """
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    together = SHRINK ** torch.arange(CANDIDATES, device=rows.device, dtype=rows.dtype)[:, None]
    # whole multiples of 2 %, 1 among them: a search never ends worse than it began
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
    """Of the candidates ``(K, R)``, each row's with the smallest squared error: ``(R,)`` twice."""
    scale, zero_point = grid_of_range(low, high, top)
    at_once = max(1, SEARCH_SIZE // rows.numel())
    errors = []
    for s, z in zip(scale.split(at_once), zero_point.split(at_once), strict=True):
        error = fake_quantize(rows.expand(len(s), -1, -1), s[:, :, None], z[:, :, None], top).sub_(rows).square_()
        errors.append((error if importance is None else error.mul_(importance)).mean(2))
    best = torch.cat(errors).argmin(0, keepdim=True)
    return low.gather(0, best)[0], high.gather(0, best)[0]


def grid_of_values(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale and zero-point, ``()`` each, of the grid with codes 0 to ``top`` that errs least on a sample of ``x``."""
    flat = x.flatten()
    step = max(1, len(flat) // SAMPLE)
    while math.gcd(step, len(flat)) > 1:  # else it might look at some columns or channels alone
        step += 1
    sample = flat[::step]
    # the extremes stay in the sample: the search starts from the full range
    sample = torch.cat([sample, flat.amin()[None], flat.amax()[None]])
    scale, zero_point = mse_grid(sample[None], top)
    return scale[0], zero_point[0]
