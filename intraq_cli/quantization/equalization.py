"""Cross-layer equalization: the channels of an activation share its grid better when their ranges are alike.

Where a batch norm's output goes through a ReLU into one convolution, a channel can be scaled up by the affine part and
down by the convolution's weight: that changes nothing in what the network computes, and much in how many steps of the
activation's grid the channel can use (Nagel et al., ICCV 2019). Ranges come from the affine part alone: a channel
leaves batch norm with mean beta and deviation gamma. A ReLU6 is left alone: what it cuts off would be another part of a
scaled channel, and real images reach far beyond five deviations (logits of EfficientNet-Lite0 moved by 0.3 of their
spread).
"""

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.batch_norms import BatchNorm, batch_norms
from intraq_cli.graph.fold import CONVOLUTIONS
from intraq_cli.graph.nodes import arguments, key_of, replace_tensors, tensor_of

aten = torch.ops.aten

DEVIATIONS = 5.0
"""The top of a channel is its mean and so many deviations."""
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
        convolution = _reader(norm)
        if convolution is None:
            continue
        used = [norm.weight, norm.bias, arguments(convolution)["weight"]]
        gamma, beta, weight = (tensor_of(graph, node) for node in used)
        if gamma is None or beta is None or not isinstance(weight, nn.Parameter) or any(len(n.users) > 1 for n in used):
            continue
        up = _factors(gamma, beta)
        if weight.shape[1] > 1:
            up = up**DENSE_POWER
        groups = len(up) // weight.shape[1]
        down = (weight.unflatten(0, (groups, -1)) / up.view(groups, 1, -1, 1, 1)).flatten(0, 1)
        changed |= zip(map(key_of, used), (gamma * up, beta * up, down), strict=True)
    return replace_tensors(graph, lambda key, tensor: changed.get(key, tensor)) if changed else graph


def _factors(gamma: Tensor, beta: Tensor) -> Tensor:
    """By what each channel is scaled up, ``(C,)``: to the largest of them."""
    top = beta + DEVIATIONS * gamma.abs()
    return torch.where(top > 0, (top.max() / top).clamp(1, LARGEST), 1.0)


def _reader(norm: BatchNorm) -> fx.Node | None:
    """The convolution that its output goes into, on its only way, through a ReLU."""
    made, rectified = norm.node, False
    while len(made.users) == 1:
        reader = next(iter(made.users))
        if reader.target in CONVOLUTIONS:
            return reader if rectified and reader.args[0] is made else None
        if reader.target in RELUS:
            rectified = True
        elif not _pads_with_zeros(reader):
            return None
        made = reader
    return None


def _pads_with_zeros(node: fx.Node) -> bool:
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return False
    given = arguments(node)
    return given.get("mode", "constant") == "constant" and not given.get("value")
