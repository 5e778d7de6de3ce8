"""The values that activation quantizers receive, compared with their grids."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from intraq_cli.graph.nodes import argument_node, numel, run_each
from intraq_cli.graph.values import AVERAGES, carries, clamp_bounds
from intraq_cli.quantization.affine import grid_of_values, joined_grid, range_of_grid
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.quantizers import ActivationQuantizer

BINS = 64
POSITIONS = 16
"""Least number of positions in a mean that counts as pooled: a mean of this many independent values varies a quarter as
much as they do."""


@dataclass(frozen=True)
class SiteRange:
    """The values at one site, and its grid."""

    site: str
    bits: int
    low: float
    """The smallest value before quantization."""
    high: float
    grid_low: float
    """The smallest value on the grid."""
    grid_high: float
    clipped: float
    """Share of values, in percent, that lie more than half a step beyond the grid."""
    sqnr: float
    """Signal-to-quantization-noise ratio of this quantizer alone, in dB."""
    counts: list[int]
    """Values in each of :data:`BINS` bins of equal width between ``low`` and ``high``."""


@torch.no_grad()
def worst_ranges(student: QuantizedNetwork, images: Tensor, most: int) -> list[SiteRange]:
    """Return the activations with the lowest SQNR, the worst first, measured in one pass of ``images (B, C, H, W)``.

    The values are those of the quantized network, so they carry the errors of everything before them.

    Args:
        student: frozen.
        images: on its device.
        most: number of activations to return.
    """
    found: list[SiteRange] = []
    sites, quantizers = {node: site for site, node in student.site_nodes.items()}, student.activation_quantizers
    run = fx.Interpreter(student.graph)
    for node in run_each(run, student.graph.graph.nodes, images):
        if node in sites:
            x, out = run.env[argument_node(node)], run.env[node]
            found.append(_range(sites[node], quantizers[sites[node]], x.float(), out.float()))
            found.sort(key=lambda one: one.sqnr)
            del found[most:]
    return found


@torch.no_grad()
def clipped_pooled_values(
    student: QuantizedNetwork, teacher: fx.GraphModule, batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return what the float network averages over many positions, where that reaches beyond the student's grid.

    A mean of independent samples from batch-norm statistics hardly varies; in an image, neighbours are alike.

    Args:
        student: calibrated on such samples.
        teacher: the float graph that it was made from, on the same device.
        batches: images ``(B, C, H, W)`` each, on that device.

    Returns:
        Values ``(N, C, ...)`` of all images by site.
    """
    read = {site: argument_node(node).name for site, node in student.site_nodes.items()}
    values: dict[str, list[Tensor]] = {name: [] for name in read.values()}
    averages = {node.name for node in teacher.graph.nodes if node.name in values and _is_average(node)}
    run, found = fx.Interpreter(teacher), {}
    for images in batches:
        for node in run_each(run, teacher.graph.nodes, images):
            if node.name in averages or (node.name in values and _is_pooled(run.env[node])):
                values[node.name].append(run.env[node])
    for site, name in read.items():
        if values[name]:
            x, quantizer = torch.cat(values[name]), student.activation_quantizers[site]
            grid = quantizer.scale().to(x.dtype), quantizer.zero_point.to(x.dtype)
            wider, _ = joined_grid(grid, grid_of_values(x, quantizer.top), quantizer.top)
            if wider > grid[0] * (1 + 1 / quantizer.top):  # by more than a step
                found[site] = x
    return found


def _is_average(node: fx.Node) -> bool:
    while carries(node) or clamp_bounds(node) is not None:
        node = argument_node(node)
    return node.target in AVERAGES and numel(argument_node(node)) >= POSITIONS * numel(node)


def _is_pooled(value: Any) -> bool:
    """Whether there is one value for each channel of an image, which may also be computed from pooled ones."""
    return isinstance(value, Tensor) and value.dim() > 1 and value[0].numel() == value.shape[1]


def _range(site: str, quantizer: ActivationQuantizer, x: Tensor, out: Tensor) -> SiteRange:
    scale, zero_point = quantizer.scale().float(), quantizer.zero_point.float()
    grid_low, grid_high = range_of_grid(scale, zero_point, quantizer.top)
    low, high = x.amin(), x.amax()
    clipped = ((x < grid_low - scale / 2) | (x > grid_high + scale / 2)).float().mean()
    noise = (out - x).square().mean().clamp(min=torch.finfo(torch.float32).tiny)
    sqnr = 10 * (x.var(correction=0) / noise).log10()
    place = (x - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny) * BINS
    counts = torch.bincount(place.flatten().long().clamp(0, BINS - 1), minlength=BINS)  # histc is not deterministic
    names = ("low", "high", "grid_low", "grid_high", "clipped", "sqnr")
    figures = torch.stack([low, high, grid_low, grid_high, 100 * clipped, sqnr]).tolist()
    return SiteRange(site, quantizer.bits, **dict(zip(names, figures, strict=True)), counts=counts.tolist())
