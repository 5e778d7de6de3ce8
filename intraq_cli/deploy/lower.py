"""Pass: lower a quantized graph to QDQ form for integer runtimes: float operations between quantizers.

Each activation quantizer becomes ``QuantizeLinear``, ``Clip`` of the codes and ``DequantizeLinear``. A clamp before it
(ReLU, ReLU6) is merged into that ``Clip``; this is exact because rounding is monotonic. Weights and biases are integer
codes followed by ``DequantizeLinear``. Runtimes then replace the operations between two quantizers by integer kernels.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, fx

from intraq_cli.deploy.operators import clip, conv, dequantize_linear, gemm, global_average_pool, quantize_linear
from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import (
    argument_node,
    arguments,
    calls,
    constant_nodes,
    constant_value,
    copy_graph,
    finish,
    input_node,
    insert_call,
    insert_tensor,
    padding_around,
    pair,
)
from intraq_cli.graph.values import (
    AVERAGES,
    CLAMPS,
    PADS,
    carries,
    is_float,
    is_logits,
    keeps_places,
    without_clamps,
    zeros_around,
)
from intraq_cli.quantization.affine import per_row
from intraq_cli.quantization.integer_arithmetic import bias_codes
from intraq_cli.quantization.network import WEIGHT_QUANTIZERS, QuantizedNetwork, bias_of, bias_on_grid, weight_codes
from intraq_cli.quantization.quantizers import ActivationQuantizer, FixedWeight

aten = torch.ops.aten

ONNX = "onnx."
"""Prefix of the names of tensors that lowering adds to the graph."""
LARGEST_CODE = 255
"""The largest code that ``QuantizeLinear`` outputs without a ``Clip`` (uint8)."""


def lower(network: QuantizedNetwork) -> fx.GraphModule:
    """Return the graph of a frozen network in ONNX operators, for images ``(B, C, H, W)``; torch cannot run it."""
    graph = copy_graph(network.graph)
    _float_bounds(graph)
    lowering = _Lowering(graph, network)
    for node in list(graph.graph.nodes):
        lowering.visit(node)
    return finish(graph)


@torch.no_grad()
def float_twin(network: QuantizedNetwork) -> fx.GraphModule:
    """Return the same network in float32 without quantizers: the baseline for the quantized network's time."""
    graph = copy_graph(network.graph)
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(module := graph.get_submodule(str(node.target)), FixedWeight):
            made = insert_tensor(graph, node, str(node.target), module.weight.detach().cpu(), ONNX)
        elif (node.op == "call_module" and isinstance(module, ActivationQuantizer)) or node.target is bias_on_grid:
            made = node.args[0]
        else:
            continue
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
    _float_bounds(graph)
    return finish(graph)


def _float_bounds(graph: fx.GraphModule) -> None:
    """Convert integer bounds of clamps to floats: ``torch.onnx`` cannot export a clamp between 0.1 and 2."""
    for node in filter(is_float, calls(graph, *CLAMPS)):
        node.args = tuple(float(x) if type(x) is int else x for x in node.args)
        node.kwargs = {name: float(x) if type(x) is int else x for name, x in node.kwargs.items()}


class _Lowering:
    def __init__(self, graph: fx.GraphModule, network: QuantizedNetwork) -> None:
        self.graph = graph
        self.layers = {f"{WEIGHT_QUANTIZERS}.{k}": name for k, name in enumerate(network.plan.weights)}
        self.shared: dict[str, fx.Node] = {}
        """Nodes of dequantized weights and biases that are already in the graph, by key."""
        self.grids: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        """For each node whose output is on a grid: the nodes of scale and zero-point."""
        self.constants = constant_nodes(graph)
        self.growing = _growing_dimensions(graph)
        self.reshaped: dict[fx.Node, tuple[fx.Node, list[int]]] = {}
        """For each inserted reshape: its input and shape; quantizers are put before the reshape."""

    def visit(self, node: fx.Node) -> None:
        if node.op == "call_module" and isinstance(module := self._module(node), ActivationQuantizer):
            self._quantizer(node, module)
        elif node.op != "call_function":
            return
        elif node.target in LAYERS and argument_node(node, 1).op == "call_module":
            self._layer(node)
        elif node.target in AVERAGES:
            self._average(node)
        elif carries(node) and node.args[0] in self.grids and not _is_padding_of_layers(node):
            self._stay_on_grid(node)

    def _module(self, node: fx.Node) -> torch.nn.Module:
        return self.graph.get_submodule(str(node.target))

    def _tensor(self, before: fx.Node, key: str, tensor: Tensor) -> fx.Node:
        return insert_tensor(self.graph, before, key, tensor.detach().cpu().contiguous(), ONNX)

    def _replace(self, node: fx.Node, made: fx.Node) -> None:
        node.replace_all_uses_with(made)
        self.graph.graph.erase_node(node)

    def _quantizer(self, node: fx.Node, module: ActivationQuantizer) -> None:
        scale, zero_point = module.scale().detach(), int(module.zero_point)
        source, low, high = without_clamps(argument_node(node))
        ends = (module.code(low), module.code(high))
        source, shape = self.reshaped.get(source, (source, None))
        key = str(node.target)
        grid = (
            self._tensor(node, f"{key}.scale", scale),
            self._tensor(node, f"{key}.zero_point", torch.tensor(zero_point, dtype=torch.uint8)),
        )
        made = insert_call(self.graph, node, quantize_linear, source, *grid)
        # without a Clip, onnxruntime merges two consecutive quantizers into one with another grid
        if ends != (0, LARGEST_CODE) or source in self.grids:
            names = zip(("lowest", "highest"), ends, strict=True)
            clipped = [self._tensor(node, f"{key}.{name}", torch.tensor(end, dtype=torch.uint8)) for name, end in names]
            made = insert_call(self.graph, node, clip, made, *clipped)
        made = insert_call(self.graph, node, dequantize_linear, made, *grid)
        if shape is not None:
            made = insert_call(self.graph, node, aten.reshape.default, made, shape)
        self.grids[made] = grid
        self._replace(node, made)

    def _stay_on_grid(self, node: fx.Node) -> None:
        """Quantize values that are already on a grid again: they do not change, but runtimes use integer kernels."""
        grid = self.grids[argument_node(node)]
        if not isinstance(node.meta.get("shape"), tuple):  # the node returns several tensors
            self.grids[node] = grid
            return
        codes, made = self._once_more(node.next, node, grid)
        node.replace_all_uses_with(made, lambda user: user is not codes)

    def _once_more(self, before: fx.Node, x: fx.Node, grid: tuple[fx.Node, fx.Node]) -> tuple[fx.Node, fx.Node]:
        """Insert a quantizer after a value that is already on a grid; return the nodes of codes and values."""
        codes = insert_call(self.graph, before, quantize_linear, x, *grid)
        made = insert_call(self.graph, before, dequantize_linear, codes, *grid)
        codes.meta, made.meta = dict(x.meta), dict(x.meta)
        self.grids[made] = grid
        return codes, made

    def _layer(self, call: fx.Node) -> None:
        holder = argument_node(call, 1)
        module = self._module(holder)
        assert isinstance(module, FixedWeight)
        name, scale = self.layers[str(holder.target)], module.scale().detach()
        key, kind, codes = f"{name}.weight", LAYERS[call.target], weight_codes(module.weight, scale)
        if self._is_linear_head(call, holder):
            kind, codes = "linear", codes.flatten(1)
        if key not in self.shared:
            self.shared[key] = self._dequantized(call, key, codes, scale)
        bias = self._bias(call, f"{name}.bias", scale)
        if kind == "conv2d":
            made = self._conv(call, self.shared[key], bias)
        elif kind == "linear":
            made = self._linear(call, self.shared[key], bias)
        else:
            call.args = (call.args[0], self.shared[key], bias, *call.args[3:])
            return
        self._replace(call, made)

    def _is_linear_head(self, call: fx.Node, holder: fx.Node) -> bool:
        """Return whether a convolution reads all positions at once and outputs the logits.

        Runtimes round the output of a convolution, but leave the output of a linear layer float.
        """
        given = arguments(call)
        if LAYERS[call.target] != "conv2d" or given["groups"] != 1 or len(holder.users) > 1:
            return False
        x, kernel = given["input"], call.meta["weight_shape"][2:]
        padded = x.target in PADS or any(padding_around(given["padding"], pair(given["dilation"]), kernel))
        return not padded and x.meta["shape"][2:] == kernel and is_logits(self.graph, call)

    def _dequantized(
        self, before: fx.Node, key: str, codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.int8
    ) -> fx.Node:
        """Insert a weight or bias: integer codes, whose first dimension is ``out``, and ``DequantizeLinear``."""
        zero_point = torch.zeros(len(scale))
        if dtype == torch.int8 and codes.abs().max() > 127:  # asymmetric 8-bit codes; no integer kernel supports them
            zero_point, dtype = -codes.flatten(1).amin(1).clamp(max=0), torch.uint8
            codes = codes + per_row(zero_point, codes.dim())
        held = [
            self._tensor(before, key, codes.to(dtype)),
            self._tensor(before, f"{key}_scale", scale),
            self._tensor(before, f"{key}_zero_point", zero_point.to(dtype)),
        ]
        node = insert_call(self.graph, before, dequantize_linear, *held)
        node.meta = {**node.meta, "shape": tuple(codes.shape)}
        return node

    def _bias(self, call: fx.Node, key: str, scale: Tensor) -> fx.Node | None:
        own, bias = bias_of(call), cast("fx.Node | None", call.args[2])
        if bias is None or own is None or bias.target is not bias_on_grid or own not in self.constants:
            return bias
        held: Tensor = constant_value(self.graph, own)  # the bias may be computed from parameters
        input_scale = self._module(argument_node(bias, 1))().detach()
        codes = bias_codes(held.detach(), input_scale, scale)
        number = sum(other.startswith(key) for other in self.shared)  # each call of a layer has its own bias
        unique = f"{key}_{number}" if number else key
        self.shared[unique] = self._dequantized(call, unique, codes, input_scale * scale, torch.int32)
        return self.shared[unique]

    def _conv(self, call: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
        given = arguments(call)
        stride, dilation = pair(given["stride"]), pair(given["dilation"])
        pads = padding_around(given["padding"], dilation, weight.meta["shape"][2:])
        x: fx.Node = given["input"]
        while (more := _padding_of_conv(x)) is not None:
            pads = tuple(a + b for a, b in zip(pads, more, strict=True))
            x = argument_node(x)
        return insert_call(self.graph, call, conv, x, weight, bias, stride, pads, dilation, given["groups"])

    def _linear(self, call: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
        x = argument_node(call)
        shape = call.meta["shape"]
        if len(shape) == 2:
            return insert_call(self.graph, call, gemm, x, weight, bias)
        flat = insert_call(self.graph, call, aten.reshape.default, x, [-1, weight.meta["shape"][1]])
        if x in self.grids:
            _, flat = self._once_more(call, flat, self.grids[x])
        out = insert_call(self.graph, call, gemm, flat, weight, bias)
        images = self.growing.get(call)
        return self._reshape(call, out, [-1 if k == images else size for k, size in enumerate(shape)])

    def _reshape(self, before: fx.Node, out: fx.Node, shape: list[int]) -> fx.Node:
        made = insert_call(self.graph, before, aten.reshape.default, out, shape)
        self.reshaped[made] = (out, shape)
        return made

    def _average(self, node: fx.Node) -> None:
        """Replace a mean over all positions by ``GlobalAveragePool``, the operator that runtimes have for it."""
        keep = keeps_places(node)
        if keep is None:
            return
        x = argument_node(node)
        made = insert_call(self.graph, node, global_average_pool, x)
        self._replace(node, made if keep else self._reshape(node, made, [-1, x.meta["shape"][1]]))


class _OfTwo(fx.Interpreter):
    """Run a graph on two images, and record which dimension of each layer's output is larger than for one image."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.grown: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and compare the shape of a layer's output with the one for one image."""
        made = super().run_node(n)
        if n.target in LAYERS:
            grown = [k for k, (two, one) in enumerate(zip(made.shape, n.meta["shape"], strict=True)) if two != one]
            if grown:
                self.grown[n] = grown[0]
        return made


@torch.no_grad()
def _growing_dimensions(graph: fx.GraphModule) -> dict[fx.Node, int]:
    """For each layer: the output dimension that grows with the batch: the first, unless tokens come first."""
    running, image = _OfTwo(graph), input_node(graph).meta["shape"][1:]
    running.run(torch.zeros(2, *image))
    return running.grown


def _is_padding_of_layers(node: fx.Node) -> bool:
    """Return whether a node pads with -inf, which is on no grid, or whether convolutions do its padding."""
    if node.target not in PADS:
        return False
    return arguments(node).get("value") == -math.inf or (
        _padding_of_conv(node) is not None and all(LAYERS.get(user.target) == "conv2d" for user in node.users)
    )


def _padding_of_conv(x: fx.Node) -> tuple[int, int, int, int] | None:
    """Return (top, left, bottom, right) of padding that a convolution can do (zeros, no cropping), else None."""
    around = zeros_around(x)
    return None if around is None or min(around) < 0 else around
