"""Weight rounding that minimises sums of errors (SQuant) or the error of the layer's output (GPTQ)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_cli.quantization.input_moments import raise_diagonal
from intraq_cli.runtime.extensions import WEIGHT_ROUNDINGS

DAMPINGS = (0.1, 1.0, 10.0)
"""Tried one after the other if second moments are not positive definite; relative to the mean of their diagonal."""
SWEEPS = 5
"""Passes of coordinate descent over all columns after the greedy rounding; most layers converge in two or three."""
BLOCK = 128
"""Number of columns whose errors are propagated to all later columns at once."""


@dataclass(frozen=True)
class RoundingInput:
    """The input of a rounding function, for one layer's weight; tensors are float32 on the device of the run."""

    weight: Tensor
    """``(out, in, ...)``, in units of each output channel's scale, without the zero-point."""
    low: Tensor
    """``(out,)``, the smallest integer of each channel's grid."""
    high: Tensor
    """``(out,)``, the largest."""
    moments: Tensor | None
    """``(G, d, d)``: ``X^T X / R`` over ``R`` sampled positions, for each of ``G`` groups. ``X`` are the inputs that an
    output's ``d`` weights are multiplied by, minus their mean if a batch norm follows. The diagonal is damped. None if
    the inputs are unknown, or if the layer has more than 8,192 weights per output."""


def rounded(method: str, given: RoundingInput) -> Tensor:
    """Round a weight by one of ``ROUNDINGS`` or by the user's own function; tuning starts from the result.

    Raises:
        RecipeError: the user's function fails, or does not return a rounded weight.
    """
    if method in ROUNDINGS:
        return ROUNDINGS[method](given)
    users = WEIGHT_ROUNDINGS[method]
    made = users(given)
    if not isinstance(made, Tensor) or made.shape != given.weight.shape:
        kind = f"a tensor of {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise users.refuse(f"returned {kind}, not a tensor of {tuple(given.weight.shape)}")
    made = made.detach().to(given.weight)
    rows = made.flatten(1)
    if not (rows == rows.round()).all() or not ((rows >= given.low[:, None]) & (rows <= given.high[:, None])).all():
        raise users.refuse("returned values that are not whole numbers between low and high")
    return made


def _nearest(given: RoundingInput) -> Tensor:
    """Return the weight unrounded: the quantizer rounds it, and tuning can move it within its rounding interval."""
    return given.weight


def _squant(given: RoundingInput) -> Tensor:
    return round_by_squant(given.weight, given.low, given.high)


def _gptq(given: RoundingInput) -> Tensor:
    """Round by GPTQ; by SQuant if the moments are unknown."""
    if given.moments is None:
        return _squant(given)
    groups = len(given.moments)
    grouped = given.weight.reshape(groups, -1, given.moments.shape[1])
    low, high = given.low.view(groups, -1), given.high.view(groups, -1)
    return round_by_gptq(grouped, given.moments, low, high).view_as(given.weight)


ROUNDINGS: dict[str, Callable[[RoundingInput], Tensor]] = {"nearest": _nearest, "squant": _squant, "gptq": _gptq}
"""Rounding functions by their name in recipes."""


def round_by_squant(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round so that errors cancel: element by element, then over each kernel, then over each output channel.

    A layer's inputs mostly have one sign, so the error of an output depends mainly on the sum of its weights' errors.
    Starting from rounding to nearest, the elements that were closest to being rounded the other way are flipped until
    a kernel's errors sum to at most half a step; then at most one more element per kernel, until a channel's do
    (SQuant, Guo et al. 2022, sections 3.2 and 3.3: diagonal, kernel-wise and channel-wise parts of the Hessian).

    Args:
        weight: in units of each channel's scale, without the zero-point; ``(out, in, ...)``.
        low: smallest integer of each channel's grid, ``(out,)``.
        high: the largest.

    Returns:
        Integers, in the same shape.
    """
    kernels = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
    low, high = low[:, None, None], high[:, None, None]
    rounded = kernels.round().clamp(low, high)
    if kernels.shape[2] > 1:
        rounded = _flip(rounded, kernels, low, high, per_kernel=True)
    return _flip(rounded, kernels, low, high, per_kernel=False).view_as(weight)


def _flip(rounded: Tensor, weight: Tensor, low: Tensor, high: Tensor, per_kernel: bool) -> Tensor:
    """Move as many elements ``(out, in, k)`` by one step as bring the summed errors closest to zero."""
    error = rounded - weight
    total = error.sum(2, keepdim=True) if per_kernel else error.sum((1, 2), keepdim=True)
    sign = total.sign()
    # flip only elements whose error has the sign of the sum, and only within the grid
    gain = error * sign
    possible = (gain > 0) & (rounded - sign >= low) & (rounded - sign <= high)
    gain = gain.where(possible, -torch.inf)
    if not per_kernel:  # one candidate of each kernel
        best = gain.amax(2, keepdim=True)
        first = torch.zeros_like(gain).scatter_(2, gain.argmax(2, keepdim=True), 1.0).bool()
        gain = best.where(first, -torch.inf)
    shape = gain.shape
    flat = gain if per_kernel else gain.flatten(1)
    rank = flat.argsort(-1, descending=True).argsort(-1).view(shape)
    chosen = (rank < total.abs().round()) & gain.isfinite()
    return rounded - sign * chosen


def round_by_gptq(weight: Tensor, moments: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round column by column, while later columns compensate for each column's error; refine by coordinate descent.

    Minimises ``E |(w - q) x|^2`` greedily (OBQ, Frantar & Alistarh 2022, in the fixed order and with the Cholesky form
    of GPTQ, Frantar et al. 2023), inputs with the largest second moment first; then by coordinate descent.

    Args:
        weight: in units of each channel's scale, without the zero-point; ``(G, O, d)``.
        moments: damped second moments of the inputs, ``(G, d, d)``.
        low: smallest integer of each channel's grid, ``(G, O)``.
        high: the largest.

    Returns:
        Integers, ``(G, O, d)``.
    """
    device = weight.device
    # thousands of small sequential operations: a GPU takes longer to launch them than a CPU to compute them
    weight, moments, low, high = (tensor.cpu() for tensor in (weight, moments, low, high))
    order = moments.diagonal(dim1=1, dim2=2).argsort(1, descending=True)  # (G, d)
    given = weight.gather(2, order[:, None].expand_as(weight))
    weight = given.clone()
    moments = moments.gather(1, order[:, :, None].expand_as(moments))
    moments = moments.gather(2, order[:, None].expand_as(moments))
    upper = _inverse_factor(moments)
    rounded = torch.empty_like(weight)
    d = weight.shape[2]
    for start in range(0, d, BLOCK):
        end = min(start + BLOCK, d)
        errors = torch.empty_like(weight[:, :, start:end])
        for i in range(start, end):
            rounded[:, :, i] = weight[:, :, i].round().clamp(low, high)
            error = (weight[:, :, i] - rounded[:, :, i]) / upper[:, i, i, None]
            weight[:, :, i:end] -= error[:, :, None] * upper[:, i, None, i:end]
            errors[:, :, i - start] = error
        weight[:, :, end:] -= errors @ upper[:, start:end, end:]
    _settle(rounded, given, moments, low, high)
    return rounded.gather(2, order.argsort(1)[:, None].expand_as(rounded)).to(device)


def _settle(rounded: Tensor, weight: Tensor, moments: Tensor, low: Tensor, high: Tensor) -> None:
    """Refine integers ``(G, O, d)`` in place by at most :data:`SWEEPS` sweeps of coordinate descent."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    if not (diagonal > 0).all():  # zeros, or NaN
        return
    slope = (rounded - weight) @ moments
    for _ in range(SWEEPS):
        moved = False
        for i in range(weight.shape[2]):
            best = (rounded[:, :, i] - slope[:, :, i] / diagonal[:, i, None]).round().clamp(low, high)
            step = best - rounded[:, :, i]
            group, out = step.nonzero(as_tuple=True)
            if len(group):
                moved = True
                rounded[:, :, i] = best
                slope[group, out] += step[group, out, None] * moments[group, i]
        if not moved:
            return


def _inverse_factor(moments: Tensor) -> Tensor:
    """Compute the upper Cholesky factor of the inverse of ``(G, d, d)``; damp more if it is not definite in float32."""
    for damping in (0.0, *DAMPINGS):
        damped = raise_diagonal(moments, damping, torch.finfo(moments.dtype).tiny) if damping else moments
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed.any() or not (lower.diagonal(dim1=1, dim2=2) > 0).all():
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed.any() and upper.isfinite().all():
            return upper
    # inputs that are NaN, infinite or all zero: every error counts the same
    return torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device).expand_as(moments)
