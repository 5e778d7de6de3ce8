"""A network's convolutions and linear layers with their multiply-adds, activation calls, and the classifier's input."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.nodes import (
    argument_node,
    arguments,
    calls,
    constant_nodes,
    input_node,
    key_of,
    names_of_calls,
    numbered,
    numel,
    sources,
    tensor_of,
    unnumbered,
)
from intraq_cli.graph.values import PADS

aten = torch.ops.aten

LAYERS: dict[Any, str] = {
    aten.conv1d.default: "conv1d",
    aten.conv1d.padding: "conv1d",
    aten.conv2d.default: "conv2d",
    aten.conv2d.padding: "conv2d",
    aten.conv3d.default: "conv3d",
    aten.conv3d.padding: "conv3d",
    aten.linear.default: "linear",
}
"""Operations whose weights are quantized; output channels are a weight's first dimension."""

RELU_LIKE = (
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.leaky_relu.default, aten.prelu.default,
    aten._prelu_kernel.default, aten.elu.default, aten.selu.default, aten.celu.default, aten.silu.default,
    aten.mish.default, aten.hardswish.default, aten.gelu.default,
)  # fmt: skip
"""Operations that count as ReLU-like activations. Gates (sigmoid and the like) do not."""


@dataclass
class Layer:
    """A convolution or linear layer, with all of its calls."""

    name: str
    """Key of its weight in the state dict without ``.weight``; if the weight is computed, the module's name."""
    kind: str
    weight: fx.Node
    shape: tuple[int, ...]
    """Shape of its weight."""
    computed: bool
    """Whether the forward pass computes its weight, from parameters alone (weight normalisation, pruning)."""
    float_reason: str | None
    """Why it cannot be quantized; None if it can."""
    calls: list[fx.Node] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Key of its weight in a checkpoint."""
        return f"{self.name}.weight" if self.computed else key_of(self.weight)

    @property
    def input_names(self) -> dict[fx.Node, str]:
        """Call to the name of its input: the layer's name, with the suffix ``#k`` at its k-th further call."""
        return dict(zip(self.calls, _input_names(self.name, len(self.calls)), strict=True))

    @property
    def outputs(self) -> int:
        """Number of values that it outputs for one image, over all calls."""
        return sum(map(numel, self.calls))

    @property
    def call_multiply_adds(self) -> list[int]:
        """Multiply-adds of each call, for one image."""
        return [numel(call) * math.prod(self.shape[1:]) for call in self.calls]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image, over all calls."""
        return sum(self.call_multiply_adds)


def layers(graph: fx.GraphModule) -> list[Layer]:
    """Return the convolutions and linear layers in the order of first calls; calls that share a weight are one layer.

    Calls that depend on the network's tensors alone are not layers: their result is constant.
    """
    constant = constant_nodes(graph)
    called: dict[fx.Node, list[fx.Node]] = {}
    for call in calls(graph, *LAYERS):
        if call not in constant:
            called.setdefault(arguments(call)["weight"], []).append(call)
    names: dict[fx.Node, str] = {}
    taken = set[str]()
    # a layer that reads a parameter directly gets the parameter's name, and so its key in a checkpoint, before a layer
    # that computes its weight from that parameter
    for weight in sorted(called, key=lambda weight: weight.op != "get_attr"):
        name = _name(called[weight][0], weight, weight in constant)
        while taken & {*_input_names(name, len(called[weight]))}:  # not the name of another layer's further call either
            stem, k = unnumbered(name)
            name = numbered(stem, k + 1)
        names[weight] = name
        taken |= {*_input_names(name, len(called[weight]))}
    found = []
    for weight, its_calls in called.items():
        kind, shape, computed = LAYERS[its_calls[0].target], weight.meta["shape"], weight.op != "get_attr"
        reason = _float_reason(graph, weight, weight in constant)
        found.append(Layer(names[weight], kind, weight, shape, computed, reason, its_calls))
    return found


def _input_names(name: str, count: int) -> list[str]:
    return [numbered(name, k) for k in range(count)]


def quantizable(graph: fx.GraphModule) -> list[Layer]:
    """Return those of :func:`layers` whose weights can be quantized."""
    return [layer for layer in layers(graph) if layer.float_reason is None]


def _name(call: fx.Node, weight: fx.Node, constant: bool) -> str:
    keys = [key_of(source) for source in sources(weight)] if constant else []
    if len(keys) == 1 and keys[0].endswith(".weight"):
        return keys[0].removesuffix(".weight")
    if weight.op == "get_attr":
        return key_of(weight)
    path = str(call.meta["path"])
    return path or (keys[0] if len(keys) == 1 else "network")


def _float_reason(graph: fx.GraphModule, weight: fx.Node, constant: bool) -> str | None:
    if not constant:
        return "its weight is computed from the input"
    if not any(isinstance(tensor_of(graph, source), nn.Parameter) for source in sources(weight)):
        return "a fixed filter, not learned"
    if weight.meta["dtype"].is_complex:
        return "its weight is complex"
    return None


def is_linear(call: fx.Node) -> bool:
    """Whether a call of one of :data:`LAYERS` is a linear layer, whose channels are the last dimension."""
    return LAYERS[call.target] == "linear"


def run_layer(call: fx.Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run a call of one of :data:`LAYERS` with this input, weight and bias instead of its own."""
    return call.target(x, weight, bias, *call.args[3:])  # type: ignore[operator]


def activation_calls(graph: fx.GraphModule) -> dict[fx.Node, str]:
    """Return the calls of :data:`RELU_LIKE`, in order, with their names."""
    return names_of_calls(calls(graph, *RELU_LIKE))


def reads_image(graph: fx.GraphModule, layer: Layer) -> bool:
    """Whether the input of a layer's first call is the image itself, possibly padded."""
    node = argument_node(layer.calls[0])
    while node.target in PADS:
        node = argument_node(node)
    return node is input_node(graph)


@dataclass(frozen=True)
class Features:
    """The classifier's input, as ``(B, D)``: the mean over positions."""

    node: fx.Node
    linear: bool

    def of(self, x: Tensor) -> Tensor:
        """Average the node's value: ``(B, ..., D)`` before a linear layer, ``(B, D, ...)`` before a convolution."""
        if self.linear:
            return x.flatten(1, -2).mean(1) if x.dim() > 2 else x
        return x.flatten(2).mean(2)


def features(graph: fx.GraphModule) -> Features:
    """Return the input of the last layer."""
    last = max(call for layer in quantizable(graph) for call in layer.calls)  # nodes compare by execution order
    return Features(argument_node(last), is_linear(last))
