"""A network whose weights and activations are quantized: its graph, with a quantizer wherever the plan has one."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from intraq_cli.graph.layers import Layer, quantizable
from intraq_cli.graph.nodes import argument_node, constant_value, copy_graph, finish, insert_call, tensors, twins
from intraq_cli.graph.values import carries
from intraq_cli.quantization.affine import per_row, round_to_step
from intraq_cli.quantization.plan import Plan
from intraq_cli.quantization.quantizers import SCALE, ActivationQuantizer, FixedWeight, WeightQuantizer
from intraq_cli.quantization.sites import Site, activation_sites

WEIGHT_QUANTIZERS, ACTIVATION_QUANTIZERS = "weight_quantizers", "activation_quantizers"
"""Submodules of the graph that hold the quantizers, by number."""


class QuantizedNetwork(nn.Module):
    """Runs a network's graph with quantized weights and activations.

    A quantizer is a submodule that a node of the graph calls. Calls of one layer share its weight, and have an
    activation quantizer each. Weights start as :class:`FixedWeight` (the float ones, or what a checkpoint holds); they
    are :class:`WeightQuantizer` from calibration to :meth:`freeze`.

    Args:
        graph: of the float network, in the form of the placement; its tensors are taken over, and changed by tuning.
        plan: what to quantize; its names are those of ``graph``.
    """

    def __init__(self, graph: fx.GraphModule, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.make_transform: Callable[[], Any] | None = None
        """Of networks that were loaded."""
        self.label_names: list[str] | None = None
        """A name for every class, where the float network had them; of networks that were loaded."""
        found = {layer.name: layer for layer in quantizable(graph)}
        self.weight_keys = {name: found[name].key for name in plan.weights}
        """By layer, the key of its weight in a checkpoint."""
        self.computed = {name for name in plan.weights if found[name].computed}
        """Layers whose weight the float network computes as it runs."""
        self.body = _insert_quantizers(graph, plan, found)
        """What runs."""
        self.simulation: tuple[fx.GraphModule] | None = None
        """What ran before :meth:`run_instead`; in a tuple, as its tensors are those of ``body``."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.body(x)

    @cached_property
    def transform(self) -> Any:
        """From a PIL image to what the network takes, ``(C, H, W)``; None of a network that was not loaded.

        Made when it is first asked for: it needs a library that takes seconds to import.
        """
        return None if self.make_transform is None else self.make_transform()

    @property
    def graph(self) -> fx.GraphModule:
        """What is quantized where, in floats, for passes.

        No submodule may have this name: exported by torch, it would stand for the nodes.
        """
        return self.body if self.simulation is None else self.simulation[0]

    def run_instead(self, body: fx.GraphModule) -> None:
        """From now on run ``body``, which computes the same in another way; :attr:`graph` stays."""
        self.simulation, self.body = (self.graph,), body

    @property
    def weights(self) -> dict[str, FixedWeight | WeightQuantizer]:
        """What holds the weight of each planned layer."""
        return {
            name: cast("FixedWeight | WeightQuantizer", self.graph.get_submodule(f"{WEIGHT_QUANTIZERS}.{k}"))
            for k, name in enumerate(self.plan.weights)
        }

    def set_weight(self, layer: str, module: FixedWeight | WeightQuantizer) -> None:
        """Put another holder of its weight into a layer."""
        number = list(self.plan.weights).index(layer)
        setattr(self.graph.get_submodule(WEIGHT_QUANTIZERS), str(number), module)

    @property
    def latent(self) -> dict[str, WeightQuantizer]:
        """Weight quantizers by layer; none before calibration and after :meth:`freeze`."""
        return {name: module for name, module in self.weights.items() if isinstance(module, WeightQuantizer)}

    @property
    def activation_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Activation quantizers by the name of their site, in the order of the plan."""
        return {
            name: cast(ActivationQuantizer, self.graph.get_submodule(f"{ACTIVATION_QUANTIZERS}.{k}"))
            for k, name in enumerate(self.plan.activations)
        }

    @property
    def weight_nodes(self) -> dict[str, fx.Node]:
        """Nodes of the graph that give the weights, by layer."""
        called = calls_of_modules(self.graph)
        return {name: called[f"{WEIGHT_QUANTIZERS}.{k}"] for k, name in enumerate(self.plan.weights)}

    @property
    def site_nodes(self) -> dict[str, fx.Node]:
        """Nodes of the graph that quantize activations, by the name of their site."""
        called = calls_of_modules(self.graph)
        return {name: called[f"{ACTIVATION_QUANTIZERS}.{k}"] for k, name in enumerate(self.plan.activations)}

    @property
    def float_tensors(self) -> dict[str, Tensor]:
        """What else the graph reads, by its key in the float network's state dict."""
        return tensors(self.graph)

    @property
    def state(self) -> dict[str, Tensor]:
        """All tensors by their keys in the float network's state dict; weights as they are used, so dequantized."""
        weights = {self.weight_keys[name]: holder() for name, holder in self.weights.items()}
        return {**self.float_tensors, **weights}

    @torch.no_grad()
    def freeze(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """End the tuning: fix all grids, and leave the dequantized weights in the network.

        Returns, per layer, what a checkpoint stores of its weight: codes (uint8, of the weight's shape), scale and
        zero-point, ``(out,)`` each.
        """
        stored = {}
        for name, quantizer in self.latent.items():
            scale, zero_point = quantizer.grid()
            weight = quantizer()
            # exact: the quantized weight is a whole number times its scale
            codes = weight_codes(weight, scale) + per_row(zero_point, weight.dim())
            stored[name] = (codes.to(torch.uint8), scale, zero_point)
            # in the memory layout of the float weight, which decides the kernel and the last bits of its sums
            fixed = torch.empty_like(quantizer.latent).copy_(dequantize(*stored[name]))
            self.set_weight(name, FixedWeight(fixed, scale))
        for activation in self.activation_quantizers.values():
            activation.scale.learn(False)
        return stored


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Float weight of codes: ``(q - z) s``, ``z`` and ``s`` ``(out,)``."""
    return (codes.to(scale.dtype) - per_row(zero_point, codes.dim())) * per_row(scale, codes.dim())


def weight_codes(weight: Tensor, scale: Tensor) -> Tensor:
    """Codes of a quantized weight ``(out, ...)``, counted from the zero-point; ``scale`` is ``(out,)``."""
    return (weight / per_row(scale, weight.dim())).round()


def calls_of_modules(graph: fx.GraphModule) -> dict[str, fx.Node]:
    """Nodes that call a submodule, by its name."""
    return {str(node.target): node for node in graph.graph.nodes if node.op == "call_module"}


def bias_of(call: fx.Node) -> fx.Node | None:
    """The bias of a layer's call in a quantized graph, before it is rounded to the layer's grid."""
    if call.args[2] is None:
        return None
    bias = argument_node(call, 2)
    return argument_node(bias) if bias.target is bias_on_grid else bias


def bias_on_grid(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """A layer's bias ``(out,)`` as integer arithmetic has it: a whole multiple of the product of both scales.

    Args:
        bias: float.
        input_scale: of the layer's input, ``()``.
        weight_scale: of its weight, ``(out,)``.
    """
    return round_to_step(bias, input_scale * weight_scale)


@torch.no_grad()
def _insert_quantizers(graph: fx.GraphModule, plan: Plan, found: dict[str, Layer]) -> fx.GraphModule:
    """Pass: quantizers in place of the planned layers' weights, and on the planned activations."""
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
    """A new node that calls the submodule ``target``."""
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
    """Of a layer's call in a quantized graph, the node that puts its input on a grid; None where it is float."""
    node = argument_node(call)
    while carries(node):
        node = argument_node(node)
    return node if node.op == "call_module" else None


def insert_scale(graph: fx.GraphModule, before: fx.Node, node: fx.Node) -> fx.Node:
    """A new node for the scale of the quantizer, or holder of a weight, that ``node`` calls."""
    return _insert_module_call(graph, before, f"{node.target}.{SCALE}", {"path": ""})


def _round_bias(made: fx.GraphModule, call: fx.Node) -> None:
    bias, quantizer = call.args[2], input_quantizer(call)
    if bias is None or quantizer is None:
        return
    scales = [insert_scale(made, call, node) for node in (quantizer, argument_node(call, 1))]
    rounded = insert_call(made, call, bias_on_grid, bias, *scales)
    call.args = (*call.args[:2], rounded, *call.args[3:])
