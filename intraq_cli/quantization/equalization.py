"""Cross-layer equalization: the channels of an activation share its grid better when their ranges are alike.

Where a batch norm's output goes through a ReLU, and pooling perhaps, into one layer, a channel can be scaled up by the
affine part and down by the layer's weight: that changes nothing in what the network computes, and much in how many
steps of the activation's grid the channel can use (Nagel et al., ICCV 2019). Ranges come from the affine part alone: a
channel leaves batch norm with mean beta and deviation gamma.

What a ReLU6 cuts off would be another part of a scaled channel: it gets a bound for each channel here, and keeps its
own in the quantized network, where the grid ends below it anyway, see :func:`uncapped`.
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
"""The top of a channel is its mean and so many deviations for each bit: a finer grid is worth reaching further."""
LARGEST_FACTOR = 16.0
"""By how much a channel is scaled up at the most."""
DENSE_POWER = 0.5
"""Of the factor, where weights of several channels share a grid and have as many bits as the activations: what makes
channels alike makes weights unlike. A depthwise convolution has a grid for each channel, and takes the whole factor."""
CAPS = "equalization."
"""Prefix of the bounds in place of those of a ReLU6."""

CAPPED = "capped"
"""In the ``meta`` of a call of :func:`clamp_channels`: the node of the ReLU6 that it stands for."""

RELUS = (aten.relu.default, aten.leaky_relu.default)
FLATTENS = (aten.flatten.using_ints, aten.reshape.default)


@torch.no_grad()
def equalize(graph: fx.GraphModule, bits: Mapping[str, tuple[int, int]]) -> fx.GraphModule:
    """Pass: the same function, with channels more alike in range where that can be had.

    What is changed is a copy; the tensors of ``graph`` stay as they are. ``graph`` itself, where nothing is to be had.

    Args:
        graph: of the float network.
        bits: of weights and of what layers read, by their names; in front of others nothing is changed.
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
    """Pass: the bounds of :func:`clamp_channels` are the network's own again, the same for all channels.

    That cuts off more of what was scaled up, and is for a network whose activations are quantized: no factor is so
    large that the top of a channel leaves the bound, and what lies above the top is beyond the grid.
    """
    graph = copy_graph(graph)
    for node in calls(graph, clamp_channels):
        own: fx.Node = node.meta[CAPPED]
        replace_call(graph, node, own.target, node.args[0], *own.args[1:])
    return finish(graph)


def clamp_channels(x: Tensor, tops: Tensor) -> Tensor:
    """``x`` ``(B, C, H, W)`` between 0 and ``tops`` ``(C, 1, 1)``."""
    return torch.minimum(x.clamp(min=0), tops)


def _factors(gamma: Tensor, beta: Tensor, deviations: float, cap: float) -> Tensor:
    """By what each channel is scaled up, ``(C,)``: to the largest of them."""
    top = (beta + deviations * gamma.abs()).clamp(max=cap)
    return torch.where(top > 0, (top.max() / top).clamp(1, LARGEST_FACTOR), 1.0)


def _scaled_down(weight: Tensor, up: Tensor) -> Tensor:
    """A layer's weight ``(out, ...)``, each input channel divided by its factor of ``up (C,)``.

    A linear layer reads one number of each channel, or as many as there are positions, one channel after the other.
    """
    apart = weight if weight.dim() == 4 else weight.unflatten(1, (len(up), -1, 1))
    groups = len(up) // apart.shape[1]
    return (apart.unflatten(0, (groups, -1)) / up.view(groups, 1, -1, 1, 1)).reshape(weight.shape)


def _way(norm: BatchNorm) -> list[fx.Node]:
    """From a batch norm's output on its only way through a ReLU to the layer it goes into; empty if to none."""
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
    """Whether a call does the same with each channel of its input ``(B, C, H, W)``, scaled or not, in the same order.

    Where channels are ``capped``, averages are left alone: their grid does not cut off what the bounds do.
    """
    read = node.args[0]
    if not isinstance(read, fx.Node) or len(read.meta.get("shape", ())) != 4:  # a size is no image
        return False
    if averages_spatially(node):
        return not capped
    if node.target in FLATTENS:  # shapes are those of one image: a row for each channel is none for an image
        return node.meta["shape"] == (1, numel(read))
    return node.target is aten.max_pool2d.default or zeros_around(node) is not None


def _caps(node: fx.Node) -> bool:
    """Whether a call is a ReLU with an upper bound, and an activation: every placement quantizes what it puts out."""
    bounds = clamp_bounds(node)
    return bounds is not None and node.target in RELU_LIKE and bounds[0] == 0 < bounds[1] < math.inf


def _top(cap: fx.Node) -> float:
    bounds = clamp_bounds(cap)
    assert bounds is not None
    return bounds[1]
