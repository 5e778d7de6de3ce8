"""Cross-layer equalization: the channels of an activation share its grid better when their ranges are alike.

Where a batch norm's output goes through a ReLU into one convolution, a channel can be scaled up by the affine part and
down by the convolution's weight: that changes nothing in what the network computes, and much in how many steps of the
activation's grid the channel can use (Nagel et al., ICCV 2019). Ranges come from the affine part alone: a channel
leaves batch norm with mean beta and deviation gamma.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.batch_norms import BatchNorm, batch_norms
from intraq_cli.graph.fold import CONVOLUTIONS
from intraq_cli.graph.nodes import arguments, key_of, replace_tensors, tensor_of

aten = torch.ops.aten

DEVIATIONS = 5.0
"""A channel's top is its mean and so many deviations: a ReLU6 must not cut what it did not cut before."""
LARGEST = 16.0
"""By how much a channel is scaled up at the most."""
DENSE_POWER = 0.75
"""Of the factor, where inputs of the convolution share grids; a depthwise one has a grid for each, and takes it all."""

RELUS = (aten.relu.default, aten.leaky_relu.default)


@torch.no_grad()
def equalize(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: the same function, with channels more alike in range where that can be had.

    What is changed is a copy; the tensors of ``graph`` stay as they are. ``graph`` itself, where nothing is to be had.
    """
    changed: dict[str, Tensor] = {}
    for norm in batch_norms(graph):
        path = _path(norm)
        if path is None:
            continue
        cap, convolution = path
        used = [norm.weight, norm.bias, arguments(convolution)["weight"]]
        gamma, beta, weight = (tensor_of(graph, node) for node in used)
        if gamma is None or beta is None or not isinstance(weight, nn.Parameter) or any(len(n.users) > 1 for n in used):
            continue
        up = _factors(gamma, beta, cap)
        if weight.shape[1] > 1:
            up = up**DENSE_POWER
        groups = len(up) // weight.shape[1]
        down = (weight.unflatten(0, (groups, -1)) / up.view(groups, 1, -1, 1, 1)).flatten(0, 1)
        changed |= zip(map(key_of, used), (gamma * up, beta * up, down), strict=True)
    return replace_tensors(graph, lambda key, tensor: changed.get(key, tensor)) if changed else graph


def _factors(gamma: Tensor, beta: Tensor, cap: float) -> Tensor:
    """By what each channel is scaled up, ``(C,)``: to the cap, or to the largest of them."""
    top = beta + DEVIATIONS * gamma.abs()
    goal = min(cap, top.max().item())
    return torch.where(top > 0, (goal / top).clamp(1, LARGEST), 1.0)


def _path(norm: BatchNorm) -> tuple[float, fx.Node] | None:
    """Up to which value its output passes on its only way, through a ReLU into a convolution, and that convolution."""
    cap: float | None = None
    made = norm.node
    while len(made.users) == 1:
        reader = next(iter(made.users))
        if reader.target in CONVOLUTIONS:
            return None if cap is None or reader.args[0] is not made else (cap, reader)
        here = _cap(reader)
        if here is not None and cap is None:
            cap = here
        elif not _pads_with_zeros(reader):
            return None
        made = reader
    return None


def _cap(node: fx.Node) -> float | None:
    """Up to which value a positive factor passes through a ReLU; None: it is another function."""
    if node.target in RELUS:
        return torch.inf
    if node.target is aten.relu6.default:
        return 6.0
    if node.target is aten.hardtanh.default:  # what nn.ReLU6 calls
        given: dict[str, Any] = arguments(node)
        return float(given["max_val"]) if given["min_val"] == 0 else None
    return None


def _pads_with_zeros(node: fx.Node) -> bool:
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return False
    given = arguments(node)
    return given.get("mode", "constant") == "constant" and not given.get("value")
