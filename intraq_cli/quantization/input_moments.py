"""Second moments of a layer's inputs, which are the Hessian of its squared output error (GPTQ, Frantar et al. 2023)."""

import math

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.graph.layers import is_linear
from intraq_cli.graph.nodes import arguments, padding_around, per_dimension

ROWS_PER_COLUMN = 8
LEAST_ROWS, MOST_ROWS = 4096, 16384
WIDEST = 8192
"""Largest number of weights per output that GPTQ rounds: the work grows with its third power."""
DAMPING = 0.03
"""Added to the diagonal of the second moments for GPTQ rounding, relative to the diagonal's mean."""
COMPENSATION = 0.3
"""The same, for weights that compensate for errors of their layer's input: measured, see docs/experiments.md."""


def input_rows(call: fx.Node, x: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Sample input rows of a layer (patches, for a convolution) at random positions: ``(G, R, d)`` for G groups.

    ``y = rows @ w.T`` with a group's ``w (out / G, d)``; ``d`` is in the order of the flattened weight.

    Args:
        call: a call node of the layer.
        x: its input.
        weight: ``(out, ...)``.
        generator: random generator for the sample.
    """
    d = weight[0].numel()
    count = min(max(ROWS_PER_COLUMN * d, LEAST_ROWS), MOST_ROWS)
    if is_linear(call):
        flat = x.reshape(-1, d)
        return flat[_sample(len(flat), count, generator, x.device)][None]
    given = arguments(call)
    stride, dilation, padding, groups = (given[name] for name in ("stride", "dilation", "padding", "groups"))
    kernel = weight.shape[2:]
    n = len(kernel)
    stride, dilation = per_dimension(stride, n), per_dimension(dilation, n)
    ends = padding_around(padding, dilation, kernel)
    around = [end for k in reversed(range(n)) for end in (ends[k], ends[n + k])]  # torch takes the last dimension first
    x = F.pad(x, around).movedim(1, -1)
    sizes = [
        (size - step * (k - 1) - 1) // by + 1
        for size, step, k, by in zip(x.shape[1:-1], dilation, kernel, stride, strict=True)
    ]
    position = _sample(len(x) * math.prod(sizes), count, generator, x.device)
    index, image = [], position
    for k in reversed(range(n)):
        start, image = image % sizes[k], image // sizes[k]
        along = start[:, None] * stride[k] + torch.arange(kernel[k], device=x.device) * dilation[k]
        index.append(along.view(-1, *[kernel[k] if j == k else 1 for j in range(n)]))
    patches = x[(image.view(-1, *[1] * n), *reversed(index))]  # (R, *kernel, C)
    return patches.movedim(-1, 0).reshape(groups, -1, len(position), *kernel).transpose(1, 2).flatten(2)


def _sample(total: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    if total <= count:
        return torch.arange(total, device=device)
    return torch.randint(total, (count,), generator=generator).to(device)


def second_moments(rows: Tensor) -> Tensor:
    """Compute ``X^T X / R`` of rows ``(G, R, d)``: ``(G, d, d)``."""
    return rows.transpose(1, 2) @ rows / rows.shape[1]


def damped(moments: Tensor, count: int, damping: float = DAMPING) -> Tensor:
    """Make second moments ``(G, d, d)`` of ``count`` rows positive definite: add ``damping`` times the diagonal's mean.

    Few rows estimate the moments poorly: ``d / count``, at most 1, replaces ``damping`` if it is larger.
    """
    relative = max(damping, min(1.0, len(moments[0]) / count))
    return raise_diagonal(moments, relative, 1e-12)


def raise_diagonal(moments: Tensor, relative: float, least: float) -> Tensor:
    """Add ``relative`` times the diagonal's mean, or times ``least`` if that is larger, to the diagonal."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    raised = relative * diagonal.mean(1, keepdim=True).clamp(min=least)
    return moments + torch.diag_embed(raised.expand_as(diagonal))


def rows_read(call: fx.Node, x: Tensor, weight: Tensor, normalized: bool, seed: int = 0) -> Tensor | None:
    """Sample input rows ``(G, R, d)`` of a layer, see :func:`input_rows`; None if ``d`` exceeds :data:`WIDEST`.

    Args:
        call: a call node of the layer.
        x: its input.
        weight: ``(out, ...)``.
        normalized: whether a batch norm reads its output; the rows' mean is then subtracted.
        seed: random seed of the sample.
    """
    if weight[0].numel() > WIDEST:
        return None
    rows = input_rows(call, x, weight, torch.Generator().manual_seed(seed))
    # the batch norm removes any constant shift of the output
    return rows - rows.mean(1, keepdim=True) if normalized else rows


def compensated(weight: Tensor, moments: Tensor, rows: Tensor, float_rows: Tensor) -> Tensor:
    """Adjust a layer's weight so that on quantized inputs its output is close to the float layer's on float inputs.

    Minimises ``E |w' x - w x_float|^2 + d |w' - w|^2``, so that a layer compensates for errors of the layers before it.
    ``w'`` is then rounded in place of ``w`` (asymmetric calibration, GPTAQ, Li et al. 2025; here by least squares
    before the rounding, and damped, as a few images give only a rough estimate of the errors).

    Args:
        weight: ``(out, ...)``.
        moments: :func:`second_moments` of ``rows``.
        rows: inputs of the quantized layer, ``(G, R, d)``, from :func:`rows_read`.
        float_rows: inputs of the float layer, at the same positions.
    """
    lower, failed = torch.linalg.cholesky_ex(damped(moments, rows.shape[1], COMPENSATION))
    if failed.any() or not lower.isfinite().all():
        return weight
    grouped = weight.reshape(len(rows), -1, rows.shape[2])
    lost = (float_rows - rows).transpose(1, 2) @ rows / rows.shape[1]
    more = torch.cholesky_solve((grouped @ lost).transpose(1, 2), lower).transpose(1, 2)
    return (grouped + more).reshape(weight.shape)
