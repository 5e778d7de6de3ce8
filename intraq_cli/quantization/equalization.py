"""Cross-layer equalization: scale the channels of an activation, which share one grid, to similar ranges.

If a batch norm's output goes through a ReLU, and possibly pooling, into a single layer, a channel can be scaled up in
the batch norm's affine parameters and down in the layer's weight. The network computes the same, but the channel uses
more steps of the activation's grid (Nagel et al., ICCV 2019). Ranges come from the affine parameters alone: a channel
of a batch norm's output has mean beta and standard deviation gamma.

A ReLU6 would clip another part of a scaled channel. So it gets a bound per channel here. In the quantized network it
has its single bound again, as the grid ends below that anyway, see :func:`uncapped`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.batch_norms import BatchNorm, batch_norms
from intraq_cli.graph.fold import CONVOLUTIONS
from intraq_cli.graph.layers import RELU_LIKE, quantizable
from intraq_cli.graph.nodes import (
    arguments,
    calls,
    copy_graph,
    finish,
    insert_tensor,
    key_of,
    numel,
    replace_call,
    replace_tensors,
    tensor_of,
    twins,
)
from intraq_cli.graph.values import averages_spatially, clamp_bounds, zeros_around

aten = torch.ops.aten

DEVIATIONS = 1.25
"""A channel's top is its mean plus this many standard deviations per activation bit: finer grids can reach further."""
LARGEST_FACTOR = 16.0
"""Largest factor by which a channel is scaled up."""
DENSE_POWER = 0.5
"""Exponent of the factor if weights of several channels share a grid and have as many bits as the activations: equal
ranges of activations make those of weights unequal. A depthwise convolution has a grid per channel: full factor."""
CAPS = "equalization."
"""Prefix of the keys of the bounds that replace those of a ReLU6."""

CAPPED = "capped"
"""Key in the ``meta`` of a call of :func:`clamp_channels`: the node of the ReLU6 that the call replaces."""

RELUS = (aten.relu.default, aten.leaky_relu.default)
FLATTENS = (aten.flatten.using_ints, aten.reshape.default)


@torch.no_grad()
def equalize(graph: fx.GraphModule, bits: Mapping[str, tuple[int, int]]) -> fx.GraphModule:
    """Pass: scale channels to similar ranges where this leaves the network's function unchanged.

    Returns a changed copy with new tensors; ``graph`` itself if nothing can be equalized.

    Args:
        graph: graph of the float network.
        bits: layer name to bits of its weight and of its input; inputs of other layers are not equalized.
    """
    changed: dict[str, Tensor] = {}
    bounds: dict[fx.Node, Tensor] = {}
    names = {call: layer.name for layer in quantizable(graph) for call in layer.calls}
    for norm in batch_norms(graph):
        way = _way(norm)
        if not way or names.get(way[-1]) not in bits:
            continue
        w_bits, a_bits = bits[names[way[-1]]]
        used = [norm.weight, norm.bias, arguments(way[-1])["weight"]]
        gamma, beta, weight = (tensor_of(graph, node) for node in used)
        if gamma is None or beta is None or not isinstance(weight, nn.Parameter) or any(len(n.users) > 1 for n in used):
            continue
        caps = [node for node in way if _caps(node)]
        up = _factors(gamma, beta, DEVIATIONS * a_bits, min((_top(cap) for cap in caps), default=math.inf))
        if weight.shape[1] > 1:
            up = up ** min(1, DENSE_POWER * w_bits / a_bits)
        changed |= zip(map(key_of, used), (gamma * up, beta * up, _scaled_down(weight, up)), strict=True)
        bounds |= {cap: _top(cap) * up for cap in caps}
    if not changed:
        return graph
    made = replace_tensors(graph, lambda key, tensor: changed.get(key, tensor))
    twin = twins(graph, made)
    for k, (cap, bound) in enumerate(bounds.items()):
        tensor = insert_tensor(made, twin[cap], f"{k}", bound[:, None, None], prefix=CAPS)
        call = replace_call(made, twin[cap], clamp_channels, twin[cap].args[0], tensor)
        call.meta = {**call.meta, CAPPED: cap}
    return finish(made)


def uncapped(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: replace :func:`clamp_channels` by the network's own clamp, with one bound for all channels.

    This clips more of the scaled-up channels. It is for networks with quantized activations: no factor moves the top of
    a channel above the bound, and values above the top are beyond the grid.
    """
    graph = copy_graph(graph)
    for node in calls(graph, clamp_channels):
        own: fx.Node = node.meta[CAPPED]
        replace_call(graph, node, own.target, node.args[0], *own.args[1:])
    return finish(graph)


def clamp_channels(x: Tensor, tops: Tensor) -> Tensor:
    """Clamp ``x`` ``(B, C, H, W)`` to between 0 and ``tops`` ``(C, 1, 1)``."""
    return torch.minimum(x.clamp(min=0), tops)


def _factors(gamma: Tensor, beta: Tensor, deviations: float, cap: float) -> Tensor:
    """Compute the factor of each channel, ``(C,)``, that scales its top up to the largest channel's top."""
    top = (beta + deviations * gamma.abs()).clamp(max=cap)
    return torch.where(top > 0, (top.max() / top).clamp(1, LARGEST_FACTOR), 1.0)


def _scaled_down(weight: Tensor, up: Tensor) -> Tensor:
    """Divide each input channel of a layer's weight ``(out, ...)`` by its factor in ``up (C,)``.

    A linear layer reads one value per channel, or those at all positions, one channel after the other.
    """
    apart = weight if weight.dim() == 4 else weight.unflatten(1, (len(up), -1, 1))
    groups = len(up) // apart.shape[1]
    return (apart.unflatten(0, (groups, -1)) / up.view(groups, 1, -1, 1, 1)).reshape(weight.shape)


def _way(norm: BatchNorm) -> list[fx.Node]:
    """Return the calls on the only path from a batch norm through a ReLU to a layer, the layer last; empty if none."""
    made, way, rectified = norm.node, [], False
    while len(made.users) == 1:
        reader = next(iter(made.users))
        way.append(reader)
        if reader.target in CONVOLUTIONS or reader.target is aten.linear.default:
            reads_images = len(made.meta["shape"]) == (4 if reader.target in CONVOLUTIONS else 2)
            return way if rectified and reads_images and reader.args[0] is made else []
        if reader.target in RELUS or _caps(reader):
            rectified = True
        elif not _keeps_channels(reader, capped=any(map(_caps, way))):
            return []
        made = reader
    return []


def _keeps_channels(node: fx.Node, capped: bool) -> bool:
    """Whether a call keeps the channels of its input ``(B, C, H, W)`` in order, and commutes with scaling them.

    Averages of ``capped`` channels are excluded: the averages' grid does not clip what the bounds clip.
    """
    read = node.args[0]
    if not isinstance(read, fx.Node) or len(read.meta.get("shape", ())) != 4:  # e.g. a size rather than an image
        return False
    if averages_spatially(node):
        return not capped
    if node.target in FLATTENS:  # recorded shapes are those of one image: the output must be a single row
        return node.meta["shape"] == (1, numel(read))
    return node.target is aten.max_pool2d.default or zeros_around(node) is not None


def _caps(node: fx.Node) -> bool:
    """Whether a call is a ReLU with an upper bound that counts as an activation, so that its output is quantized."""
    bounds = clamp_bounds(node)
    return bounds is not None and node.target in RELU_LIKE and bounds[0] == 0 < bounds[1] < math.inf


def _top(cap: fx.Node) -> float:
    bounds = clamp_bounds(cap)
    assert bounds is not None
    return bounds[1]
