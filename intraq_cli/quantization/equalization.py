"""Cross-layer equalization: the channels of an activation share its grid better when their ranges are alike.

Where a batch norm's output goes through a ReLU into one convolution, a channel can be scaled up by the affine part and
down by the convolution's weight: that changes nothing in what the network computes, and much in how many steps of the
activation's grid the channel can use (Nagel et al., ICCV 2019). Ranges come from the affine part alone: a channel
leaves batch norm with mean beta and deviation gamma.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import batch_norm_calls
from intraq_cli.graph.dataflow import Call, Dataflow, dataflow
from intraq_cli.graph.trace import split_call

DEVIATIONS = 5.0
"""A channel's top is its mean and so many deviations: a ReLU6 must not cut what it did not cut before."""
LARGEST = 16.0
"""By how much a channel is scaled up at the most."""
DENSE_POWER = 0.75
"""Of the factor, where inputs of the convolution share grids; a depthwise one has a grid for each, and takes it all."""

RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.leaky_relu, F.leaky_relu_}


@torch.no_grad()
def equalized(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``network`` that computes the same, with channels more alike in range where that can be had.

    Args:
        network: in evaluation mode, frozen.
        example: ``(B, C, H, W)``, for one run.
    """
    network = copy.deepcopy(network)
    flow, _ = dataflow(network, example)
    own = {id(parameter) for parameter in network.parameters()}
    for call, norm in batch_norm_calls(flow):
        path = _path(flow, call)
        if path is None or norm.weight is None or norm.bias is None:
            continue
        cap, weight = path
        if any(id(used) not in own or flow.uses[id(used)] != 1 for used in (norm.weight, norm.bias, weight)):
            continue
        up = _factors(norm.weight, norm.bias, cap)
        if weight.shape[1] > 1:
            up = up**DENSE_POWER
        norm.weight.mul_(up)
        norm.bias.mul_(up)
        groups = len(up) // weight.shape[1]
        weight.copy_((weight.unflatten(0, (groups, -1)) / up.view(groups, 1, -1, 1, 1)).flatten(0, 1))
    return network


def _factors(gamma: Tensor, beta: Tensor, cap: float) -> Tensor:
    """By what each channel is scaled up, ``(C,)``: to the cap, or to the largest of them."""
    top = beta + DEVIATIONS * gamma.abs()
    goal = min(cap, top.max().item())
    return torch.where(top > 0, (goal / top).clamp(1, LARGEST), 1.0)


def _path(flow: Dataflow, batch_norm: Call) -> tuple[float, Tensor] | None:
    """Up to which value its output passes on its only way, through a ReLU into a convolution, and that one's weight."""
    cap: float | None = None
    made, reader = batch_norm, flow.only_reader(batch_norm)
    while reader is not None:
        if reader.func is F.conv2d:
            x, weight, _ = split_call(reader.func, reader.args, reader.kwargs)
            return None if cap is None or flow.maker(reader, x) is not made else (cap, weight)
        here = _cap(reader)
        if here is not None and cap is None:
            cap = here
        elif not _pads_with_zeros(reader):
            return None
        made, reader = reader, flow.only_reader(reader)
    return None


def _cap(call: Call) -> float | None:
    """Up to which value a positive factor passes through a ReLU; None: it is another function."""
    func = call.func
    if func in RELUS:
        return torch.inf
    if func is F.relu6:
        return 6.0
    if func in (F.hardtanh, F.hardtanh_):  # what nn.ReLU6 calls
        given = _given(call, "input", "min_val", "max_val")
        return given.get("max_val", 1.0) if given.get("min_val", -1.0) == 0 else None
    return None


def _pads_with_zeros(call: Call) -> bool:
    given = _given(call, "input", "pad", "mode", "value")
    return call.func is F.pad and given.get("mode", "constant") == "constant" and not given.get("value")


def _given(call: Call, *names: str) -> dict[str, Any]:
    return dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
