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
"""Inputs of a single output up to which weights are rounded by GPTQ: the work grows with their third power."""
DAMPING = 0.03
"""Of the second moments that GPTQ rounding goes by, relative to their mean."""
COMPENSATION = 0.3
"""The same, of those by which a weight makes up for errors of what it reads: measured, see docs/results.md."""


def input_rows(call: fx.Node, x: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random sample of what single outputs of a layer are computed from: ``(G, R, d)`` for G groups.

    ``y = rows @ w.T`` with a group's ``w (out / G, d)``; ``d`` runs as in the weight.

    Args:
        call: of the layer, a node of a graph.
        x: its input.
        weight: ``(out, ...)``.
        generator: of the sample.
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
    """``X^T X / R`` of rows ``(G, R, d)``: ``(G, d, d)``."""
    return rows.transpose(1, 2) @ rows / rows.shape[1]


def damped(moments: Tensor, count: int, damping: float = DAMPING) -> Tensor:
    """Second moments ``(G, d, d)`` of ``count`` rows, made definite: the diagonal raised by ``damping`` of its mean.

    Fewer rows than inputs say more of themselves than of others: then it is raised by inputs over rows, at most by 1.
    """
    relative = max(damping, min(1.0, len(moments[0]) / count))
    return raise_diagonal(moments, relative, 1e-12)


def raise_diagonal(moments: Tensor, relative: float, least: float) -> Tensor:
    """Second moments ``(G, d, d)`` with a multiple of the mean of the diagonal, or of ``least``, added to it."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    raised = relative * diagonal.mean(1, keepdim=True).clamp(min=least)
    return moments + torch.diag_embed(raised.expand_as(diagonal))


def rows_read(call: fx.Node, x: Tensor, weight: Tensor, normalized: bool, seed: int = 0) -> Tensor | None:
    """A sample ``(G, R, d)`` of what single outputs of a layer are computed from; None of one that is too wide.

    Args:
        call: of the layer.
        x: its input.
        weight: ``(out, ...)``.
        normalized: whether a batch norm reads what it puts out.
        seed: of the sample.
    """
    if weight[0].numel() > WIDEST:
        return None
    rows = input_rows(call, x, weight, torch.Generator().manual_seed(seed))
    # what is added to every place, the batch norm takes away
    return rows - rows.mean(1, keepdim=True) if normalized else rows


def compensated(weight: Tensor, moments: Tensor, rows: Tensor, float_rows: Tensor) -> Tensor:
    """The weight that does with what a quantized layer reads what the float one does with what it reads.

    As far as one can: minimises ``E |w' x - w x_float|^2 + d |w' - w|^2``, so that a layer makes up for errors of those
    before it. Rounding then goes by ``w'`` (asymmetric calibration, GPTAQ, Li et al. 2025; here by least squares before
    the rounding, and damped, as a few images tell errors only roughly).

    Args:
        weight: ``(out, ...)``.
        moments: :func:`second_moments` of ``rows``.
        rows: what the quantized layer reads, ``(G, R, d)``, of :func:`rows_read`.
        float_rows: what the float one reads, at the same positions.
    """
    lower, failed = torch.linalg.cholesky_ex(damped(moments, rows.shape[1], COMPENSATION))
    if failed.any() or not lower.isfinite().all():
        return weight
    grouped = weight.reshape(len(rows), -1, rows.shape[2])
    lost = (float_rows - rows).transpose(1, 2) @ rows / rows.shape[1]
    more = torch.cholesky_solve((grouped @ lost).transpose(1, 2), lower).transpose(1, 2)
    return (grouped + more).reshape(weight.shape)
