"""A network with quantized weights and activations: its graph, with the quantizers of the plan inserted."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.layers import Layer, quantizable
from intraq_cli.graph.nodes import argument_node, constant_value, copy_graph, finish, insert_call, tensors, twins
from intraq_cli.graph.values import carries
from intraq_cli.quantization.affine import per_row, round_straight_through
from intraq_cli.quantization.plan import Plan
from intraq_cli.quantization.quantizers import SCALE, ActivationQuantizer, FixedWeight, WeightQuantizer
from intraq_cli.quantization.sites import Site, activation_sites

WEIGHT_QUANTIZERS, ACTIVATION_QUANTIZERS = "weight_quantizers", "activation_quantizers"
"""Names of the submodules of the graph that hold the quantizers; the quantizers are numbered in the plan's order."""


class QuantizedNetwork(nn.Module):
    """Runs a network's graph with quantized weights and activations.

    A quantizer is a submodule that a node of the graph calls. All calls of a layer share its weight quantizer, and each
    has its own activation quantizer. Weights start as :class:`FixedWeight` (float weights, or those of a checkpoint);
    they are :class:`WeightQuantizer` from calibration to :meth:`freeze`.

    Args:
        graph: graph of the float network, in the form of the placement; its tensors are shared, and changed by tuning.
        plan: what to quantize, by the names in ``graph``.
    """

    def __init__(self, graph: fx.GraphModule, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.make_transform: Callable[[], Any] | None = None
        """Makes :attr:`transform`; set only for loaded networks."""
        self.label_names: list[str] | None = None
        """The names of the classes, if the float network had them; set only for loaded networks."""
        found = {layer.name: layer for layer in quantizable(graph)}
        self.weight_keys = {name: found[name].key for name in plan.weights}
        """Layer name to the key of its weight in a checkpoint."""
        self.computed = {name for name in plan.weights if found[name].computed}
        """Names of layers whose weight the float network computes in its forward pass."""
        self.body = _insert_quantizers(graph, plan, found)
        """The graph that runs."""
        self.simulation: tuple[fx.GraphModule] | None = None
        """The graph before :meth:`run_instead`; in a tuple, so that torch does not register it: ``body`` shares its
        tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.body(x)

    @cached_property
    def transform(self) -> Any:
        """Preprocessing from a PIL image to the network's input ``(C, H, W)``; None if the network was not loaded.

        Made on first access: it needs a library that takes seconds to import.
        """
        return None if self.make_transform is None else self.make_transform()

    @property
    def graph(self) -> fx.GraphModule:
        """The graph with fake quantization in floats, for passes.

        No submodule may be named ``graph``: in a module exported by torch, that attribute holds the nodes.
        """
        return self.body if self.simulation is None else self.simulation[0]

    def run_instead(self, body: fx.GraphModule) -> None:
        """Run ``body`` from now on, which computes the same in another way; :attr:`graph` stays the same."""
        self.simulation, self.body = (self.graph,), body

    @property
    def weights(self) -> dict[str, FixedWeight | WeightQuantizer]:
        """Layer name to the module that holds its weight, for each layer of the plan."""
        return {
            name: cast("FixedWeight | WeightQuantizer", self.graph.get_submodule(f"{WEIGHT_QUANTIZERS}.{k}"))
            for k, name in enumerate(self.plan.weights)
        }

    def set_weight(self, layer: str, module: FixedWeight | WeightQuantizer) -> None:
        """Replace the module that holds a layer's weight."""
        number = list(self.plan.weights).index(layer)
        setattr(self.graph.get_submodule(WEIGHT_QUANTIZERS), str(number), module)

    @property
    def latent(self) -> dict[str, WeightQuantizer]:
        """Layer name to weight quantizer; empty before calibration and after :meth:`freeze`."""
        return {name: module for name, module in self.weights.items() if isinstance(module, WeightQuantizer)}

    @property
    def activation_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Site name to activation quantizer, in the order of the plan."""
        return {
            name: cast(ActivationQuantizer, self.graph.get_submodule(f"{ACTIVATION_QUANTIZERS}.{k}"))
            for k, name in enumerate(self.plan.activations)
        }

    @property
    def weight_nodes(self) -> dict[str, fx.Node]:
        """Layer name to the graph node that returns its weight."""
        return self._calls_of(WEIGHT_QUANTIZERS, self.plan.weights)

    @property
    def site_nodes(self) -> dict[str, fx.Node]:
        """Site name to the graph node that quantizes the activation."""
        return self._calls_of(ACTIVATION_QUANTIZERS, self.plan.activations)

    def _calls_of(self, kind: str, names: Iterable[str]) -> dict[str, fx.Node]:
        called = {node.target: node for node in self.graph.graph.nodes if node.op == "call_module"}
        return {name: called[f"{kind}.{k}"] for k, name in enumerate(names)}

    @property
    def float_tensors(self) -> dict[str, Tensor]:
        """All other tensors that the graph reads, by their key in the float network's state dict."""
        return tensors(self.graph)

    @property
    def state(self) -> dict[str, Tensor]:
        """All tensors by their keys in the float network's state dict; quantized weights are dequantized."""
        weights = {self.weight_keys[name]: holder() for name, holder in self.weights.items()}
        return {**self.float_tensors, **weights}

    @torch.no_grad()
    def freeze(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """End the tuning: fix all grids, and replace weight quantizers by the dequantized weights.

        Returns what a checkpoint stores of each layer's weight: codes (uint8, in the weight's shape), scale and
        zero-point, ``(out,)`` each.
        """
        stored = {}
        for name, quantizer in self.latent.items():
            scale, zero_point = quantizer.grid()
            weight = quantizer()
            # exact: the quantized weight is an integer multiple of its scale
            codes = weight_codes(weight, scale) + per_row(zero_point, weight.dim())
            stored[name] = (codes.to(torch.uint8), scale, zero_point)
            # keep the float weight's memory layout: it decides which kernel runs, and so the last bits of its sums
            fixed = torch.empty_like(quantizer.latent).copy_(dequantize(*stored[name]))
            self.set_weight(name, FixedWeight(fixed, scale))
        for activation in self.activation_quantizers.values():
            activation.scale.learn(False)
        return stored


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the float weight of codes: ``(q - z) s``; ``z`` and ``s`` are ``(out,)``."""
    return (codes.to(scale.dtype) - per_row(zero_point, codes.dim())) * per_row(scale, codes.dim())


def weight_codes(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the codes minus zero-point of a quantized weight ``(out, ...)``; ``scale`` is ``(out,)``."""
    return (weight / per_row(scale, weight.dim())).round()


def bias_of(call: fx.Node) -> fx.Node | None:
    """Return the bias node of a layer's call in a quantized graph, before it is rounded to the layer's grid."""
    if call.args[2] is None:
        return None
    bias = argument_node(call, 2)
    return argument_node(bias) if bias.target is bias_on_grid else bias


def bias_on_grid(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Round a layer's bias ``(out,)`` for integer arithmetic: to an integer multiple of the product of both scales.

    Args:
        bias: float.
        input_scale: scale of the layer's input, ``()``.
        weight_scale: scale of its weight, ``(out,)``.
    """
    step = (input_scale * weight_scale).detach()
    return round_straight_through(bias / step) * step


@torch.no_grad()
def _insert_quantizers(graph: fx.GraphModule, plan: Plan, found: dict[str, Layer]) -> fx.GraphModule:
    """Pass: replace the weights of the plan's layers by weight holders, and insert the plan's activation quantizers."""
    planned = [found[name] for name in plan.weights]
    sites = activation_sites(graph, plan.placement)
    made = copy_graph(graph)
    twin = twins(graph, made)
    for k, layer in enumerate(planned):
        weight = constant_value(graph, layer.weight)
        # a computed weight may be a transposed view
        made.add_submodule(f"{WEIGHT_QUANTIZERS}.{k}", FixedWeight(weight.contiguous() if layer.computed else weight))
        calls = [twin[call] for call in layer.calls]
        node = _insert_module_call(made, calls[0], f"{WEIGHT_QUANTIZERS}.{k}", calls[0].meta)
        for call in calls:
            call.args = (call.args[0], node, *call.args[2:])
    for k, (name, bits) in enumerate(plan.activations.items()):
        made.add_submodule(f"{ACTIVATION_QUANTIZERS}.{k}", ActivationQuantizer(bits))
        _insert_site(made, f"{ACTIVATION_QUANTIZERS}.{k}", sites[name], twin)
    if plan.placement == "integer":
        for call in [twin[call] for layer in planned for call in layer.calls]:
            _round_bias(made, call)
    return finish(made)


def _insert_module_call(
    graph: fx.GraphModule, before: fx.Node, target: str, meta: dict[str, Any], *args: fx.Node
) -> fx.Node:
    """Insert a node that calls the submodule ``target``."""
    with graph.graph.inserting_before(before):
        node = graph.graph.call_module(target, args)
    node.meta = dict(meta)
    return node


def _insert_site(made: fx.GraphModule, target: str, site: Site, twin: dict[fx.Node, fx.Node]) -> None:
    reader = None if site.reader is None else twin[site.reader]
    value = twin[site.value] if reader is None else argument_node(reader)
    node = _insert_module_call(made, reader or value.next, target, value.meta, value)
    if reader is not None:
        reader.args = (node, *reader.args[1:])
    else:
        value.replace_all_uses_with(node, lambda user: user is not node)


def input_quantizer(call: fx.Node) -> fx.Node | None:
    """Return the node that quantizes the input of a layer's call in a quantized graph; None if the input is float."""
    node = argument_node(call)
    while carries(node):
        node = argument_node(node)
    return node if node.op == "call_module" else None


def insert_scale(graph: fx.GraphModule, before: fx.Node, node: fx.Node) -> fx.Node:
    """Insert a node that returns the scale of the quantizer or weight holder that ``node`` calls."""
    return _insert_module_call(graph, before, f"{node.target}.{SCALE}", {"path": ""})


def _round_bias(made: fx.GraphModule, call: fx.Node) -> None:
    bias, quantizer = call.args[2], input_quantizer(call)
    if bias is None or quantizer is None:
        return
    scales = [insert_scale(made, call, node) for node in (quantizer, argument_node(call, 1))]
    rounded = insert_call(made, call, bias_on_grid, bias, *scales)
    call.args = (*call.args[:2], rounded, *call.args[3:])
