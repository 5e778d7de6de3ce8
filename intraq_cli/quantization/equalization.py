"""Cross-layer equalization: the channels of an activation share its grid better when their ranges are alike.

Where a batch norm's output goes through a ReLU into one convolution, a channel can be scaled up by the affine part and
down by the convolution's weight: that changes nothing in what the network computes, and much in how many steps of the
activation's grid the channel can use (Nagel et al., ICCV 2019). Ranges come from the affine part alone: a channel
leaves batch norm with mean beta and deviation gamma.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from intraq_cli.batch_norms import BatchNormCall
from intraq_cli.trace import LAYERS, split_call

DEVIATIONS = 8.0
"""A channel's top is its mean and so many deviations: a ReLU6 must not cut what it did not cut before."""
LARGEST = 16.0
"""By how much a channel is scaled up at the most."""
DENSE_POWER = 0.5
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
    with _Flows() as flows:
        network(example)
    own = {id(parameter) for parameter in network.parameters()}
    for flow in flows.all:
        norm, weight = flow.norm, flow.weight
        if weight is None or flow.uses != 1 or not {id(norm.weight), id(norm.bias), id(weight)} <= own:
            continue
        if any(flows.calls[id(used)] != 1 for used in (norm.weight, weight)):
            continue
        assert norm.weight is not None
        assert norm.bias is not None
        up = _factors(norm.weight, norm.bias, flow.cap)
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


@dataclass
class _Flow:
    """What leaves a batch norm, on its way to a convolution."""

    norm: BatchNormCall
    cap: float = torch.inf
    rectified: bool = False
    weight: Tensor | None = None
    """Of the convolution that it enters."""
    uses: int = 0
    """Other than to be handed on; of one that goes elsewhere than into a convolution, more than one."""


class _Flows(TorchFunctionMode):
    """Within the block, follows what batch norms put out."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[_Flow] = []
        self.calls: dict[int, int] = {}
        """How often each weight was used."""
        self._at: dict[int, _Flow] = {}
        self._alive: list[Tensor] = []  # tensors are told apart by identity

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        flows = {id(leaf): self._at.get(id(leaf)) for leaf in tree_leaves((args, kwargs))}
        given = [flow for flow in flows.values() if flow is not None]
        out = func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            return out  # a question about a shape is no use of the values
        if func in LAYERS:
            _, weight, _ = split_call(func, args, kwargs)
            self._count(weight)
            for flow in given:
                flow.uses += 1
                flow.weight = weight if func is F.conv2d and flow.rectified else None
            return out
        if len(given) == 1 and self._handed_on(given[0], func, args, kwargs):
            self._follow(given[0], out)
            return out
        for flow in given:
            flow.uses += 2
        if func is F.batch_norm:
            norm = BatchNormCall(*args, **kwargs)
            if norm.weight is not None and norm.on_images:
                self._count(norm.weight)
                self.all.append(_Flow(norm))
                self._follow(self.all[-1], out)
        return out

    def _handed_on(self, flow: _Flow, func: Any, args: tuple, kwargs: dict) -> bool:
        """Whether ``func`` is a ReLU, the first, or pads with zeros."""
        cap = _cap(func, args, kwargs)
        if cap is not None and not flow.rectified:
            flow.rectified, flow.cap = True, cap
            return True
        if func is not F.pad:
            return False
        mode, value = dict(enumerate(args)).get(2, "constant"), dict(enumerate(args)).get(3)
        return kwargs.get("mode", mode) == "constant" and not kwargs.get("value", value)

    def _follow(self, flow: _Flow, out: Tensor) -> None:
        self._at[id(out)] = flow
        self._alive.append(out)

    def _count(self, weight: Tensor) -> None:
        self.calls[id(weight)] = self.calls.get(id(weight), 0) + 1


def _cap(func: Any, args: tuple, kwargs: dict) -> float | None:
    """Up to which value a positive factor passes through ``func``; None: it does not."""
    if func in RELUS:
        return torch.inf
    if func is F.relu6:
        return 6.0
    if func in (F.hardtanh, F.hardtanh_):  # what nn.ReLU6 calls
        given = dict(zip(("input", "min_val", "max_val"), args, strict=False)) | kwargs
        return given.get("max_val", 1.0) if given.get("min_val", -1.0) == 0 else None
    return None
