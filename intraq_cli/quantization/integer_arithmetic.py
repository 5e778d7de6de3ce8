"""Pass: compute a frozen network of placement ``integer`` with the arithmetic of integer runtimes, code for code.

Fake quantization in floats rounds a value halfway between two codes to either of them. That concerns about one value
in a million, but in a deep network it changes the logits. Here layers sum products of integers, which float32 does
exactly, and requantize the sums with one multiplication, as the kernels of onnxruntime do (Jacob et al. 2018, eq. 4,
with a float multiplier). So the logits are those of the exported file.

Everywhere in this file, "code" means code minus zero-point: the code of zero is 0.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from intraq_cli.graph.batch_norms import batch_norms
from intraq_cli.graph.layers import LAYERS, is_linear
from intraq_cli.graph.nodes import argument_node, copy_graph, finish, insert_call, replace_call, tensor_of
from intraq_cli.graph.values import carries, keeps_places, without_clamps
from intraq_cli.quantization.affine import per_row, round_straight_through
from intraq_cli.quantization.network import (
    ACTIVATION_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    QuantizedNetwork,
    bias_of,
    bias_on_grid,
    insert_scale,
    weight_codes,
)
from intraq_cli.quantization.quantizers import ActivationQuantizer, FixedWeight

aten = torch.ops.aten

EXACT = 2**24
"""float32 represents every integer up to this one exactly."""
COARSE = 16
"""Weight codes whose sums may exceed :data:`EXACT` are split into multiples of this and the remainder."""


def compute_on_integers(network: QuantizedNetwork) -> None:
    """Make a frozen network run in integer arithmetic from now on, if its placement is ``integer``."""
    if network.plan.placement != "integer":
        return
    graph = copy_graph(network.graph)
    for norm in batch_norms(graph):
        replace_call(graph, norm.node, batch_norm, norm.x, *norm.nodes)
    rewriting = _Rewriting(graph)
    for node in list(graph.graph.nodes):
        rewriting.visit(node)
    made = finish(graph)
    for kind in (WEIGHT_QUANTIZERS, ACTIVATION_QUANTIZERS):  # the graph itself keeps only the parts that it reads
        for name, module in network.graph.get_submodule(kind).named_children():
            made.add_submodule(f"{kind}.{name}", module)
    network.run_instead(made)


def codes_on_grid(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Quantize floats ``x`` (any shape) to codes from ``low`` to ``high``; ``scale`` is ``()``."""
    return _rounded(x / scale, low, high)


def average_on_grid(x: Tensor, scale: Tensor, zero_point: int, low: int, high: int) -> Tensor:
    """Quantize averages, which often lie halfway between two codes: as kernels do, add the zero-point, then round."""
    return _rounded(x / scale + zero_point, low + zero_point, high + zero_point).sub(zero_point)


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Compute a batch norm that is not folded, on ``x`` ``(B, C, ...)``: one product and one sum, as kernels do."""
    factor = (var + eps).sqrt().reciprocal()
    offset = mean * factor
    if weight is not None:
        factor, offset = factor * weight, offset * weight
    offset = -offset if bias is None else bias - offset
    return x * per_row(factor, x.dim() - 1) + per_row(offset, x.dim() - 1)


def coarse_part(codes: Tensor) -> Tensor:
    """Divide a weight's codes by :data:`COARSE`, rounded."""
    return (codes / COARSE).round()


def bias_codes(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Compute the codes of a bias ``(out,)`` on the grid of the sums."""
    return (bias / (input_scale * weight_scale)).round().clamp(-(2**30), 2**30)


def sums_on_grid(sums: Tensor, factor: Tensor, low: int, high: int) -> Tensor:
    """Requantize sums of products of codes; ``factor`` is the scale of the sums over that of the grid."""
    return _rounded(sums * factor, low, high)


def sum_of_two(
    a: Tensor, b: Tensor, scales: tuple[Tensor, Tensor, Tensor], zero_points: tuple[int, int, int], low: int, high: int
) -> Tensor:
    """Compute the codes of a sum of two activations; ``scales`` and ``zero_points`` are of ``a``, ``b`` and the sum.

    Every step rounds like the kernels for processors with fused multiply-adds.
    """
    (of_a, of_b), (zero_a, zero_b, zero) = [scale / scales[2] for scale in scales[:2]], zero_points
    fixed = zero - _multiply_add(of_a.new_tensor(zero_a), of_a, of_b * zero_b)
    total = _multiply_add(a + zero_a, of_a, _multiply_add(b + zero_b, of_b, fixed))
    return _rounded(total, low + zero, high + zero).sub(zero).to(a.dtype)


def _multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute ``a b + c`` in float32, rounded only once: by way of float64."""
    product = a.double().mul_(b.double())
    if torch.broadcast_shapes(product.shape, c.shape) == product.shape:
        return product.add_(c.double()).float()
    return (product + c.double()).float()  # the second of two activations may have the larger shape


def _rounded(x: Tensor, low: int, high: int) -> Tensor:
    """Round and clamp to [low, high]; the gradient passes straight through the rounding. ``x`` may be overwritten."""
    return round_straight_through(x).clamp(low, high) if x.requires_grad else x.round_().clamp_(low, high)


def scale_of_product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Compute ``a b / out``, in this order, which decides the rounding."""
    return a * b / out


def scale_of_mean(x: Tensor, out: Tensor, positions: int) -> Tensor:
    """Return the factor from the sum of codes over all positions to the codes of their mean."""
    return x / (out * positions)


@dataclass(frozen=True)
class _OnGrid:
    """A value on a grid."""

    codes: fx.Node
    scale: fx.Node
    zero_point: int
    largest: int
    """Its largest absolute code."""


@dataclass(frozen=True)
class _Sums:
    """A layer's sums of products of codes."""

    codes: fx.Node
    scales: tuple[fx.Node, fx.Node]
    """Scales of its input, and of its weight in the shape of its output's channels."""


class _Rewriting:
    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.grids: dict[fx.Node, _OnGrid] = {}
        self.sums: dict[fx.Node, _Sums] = {}

    def visit(self, node: fx.Node) -> None:
        if node.op == "call_module" and isinstance(self._module(node), ActivationQuantizer):
            self._quantizer(node)
        elif node.op == "call_function" and node.target in LAYERS:
            self._layer(node)
        elif carries(node) and (grid := self.grids.get(argument_node(node))):
            codes = insert_call(self.graph, node.next, node.target, grid.codes, *node.args[1:])
            codes.kwargs, codes.meta = node.kwargs, dict(node.meta)
            self.grids[node] = replace(grid, codes=codes)

    def _module(self, node: fx.Node) -> torch.nn.Module:
        return self.graph.get_submodule(str(node.target))

    def _quantizer(self, node: fx.Node) -> None:
        module = self._module(node)
        assert isinstance(module, ActivationQuantizer)
        source, *bounds = without_clamps(argument_node(node))
        zero_point, scale = int(module.zero_point), insert_scale(self.graph, node, node)
        low, high = (module.code(bound) - zero_point for bound in bounds)
        codes = self._codes(node, source, scale, zero_point, (low, high))
        value = replace_call(self.graph, node, aten.mul.Tensor, codes, scale)
        self.grids[value] = _OnGrid(codes, scale, zero_point, max(-low, high))

    def _codes(
        self, before: fx.Node, source: fx.Node, scale: fx.Node, zero_point: int, ends: tuple[int, int]
    ) -> fx.Node:
        """Insert the computation of a quantizer's output codes: from codes if possible, else from its float input."""
        call = partial(insert_call, self.graph, before)
        if (sums := self.sums.get(source)) is not None:
            return call(sums_on_grid, sums.codes, call(scale_of_product, *sums.scales, scale), *ends)
        read = [self.grids[x] for x in source.args[:2] if isinstance(x, fx.Node) and x in self.grids]
        if len(read) == 2 and source.target is aten.add.Tensor and source.kwargs.get("alpha", 1) == 1:
            a, b = read
            scales, zero_points = (a.scale, b.scale, scale), (a.zero_point, b.zero_point, zero_point)
            return call(sum_of_two, a.codes, b.codes, scales, zero_points, *ends)
        if len(read) == 2 and source.target is aten.mul.Tensor:
            a, b = read
            product = call(aten.mul.Tensor, a.codes, b.codes)
            return call(sums_on_grid, product, call(scale_of_product, a.scale, b.scale, scale), *ends)
        if read and (keep := keeps_places(source)) is not None:
            positions = torch.Size(argument_node(source).meta["shape"][2:]).numel()
            total = call(aten.sum.dim_IntList, read[0].codes, [2, 3], keep)
            return call(sums_on_grid, total, call(scale_of_mean, read[0].scale, scale, positions), *ends)
        if read and source.target is aten.avg_pool2d.default:
            return call(average_on_grid, source, scale, zero_point, *ends)
        return call(codes_on_grid, source, scale, *ends)

    def _layer(self, node: fx.Node) -> None:
        x, weight, settings = argument_node(node), argument_node(node, 1), node.args[3:]
        bias = None if node.args[2] is None else argument_node(node, 2)
        grid = self.grids.get(x)
        if grid is None or weight.op != "call_module" or not (bias is None or bias.target is bias_on_grid):
            return
        call = partial(insert_call, self.graph, node)
        scale = insert_scale(self.graph, node, weight)
        codes = call(weight_codes, weight, scale)
        own = None if bias is None else call(bias_codes, bias_of(node), grid.scale, scale)
        if self._is_exact(node, grid):
            sums = call(node.target, grid.codes, codes, own, *settings)
        else:
            sums = self._in_two_parts(node, grid.codes, codes, own, settings)
        if not is_linear(node):
            scale = call(aten.view.default, scale, [-1] + [1] * (len(node.meta["shape"]) - 2))
        value = replace_call(self.graph, node, aten.mul.Tensor, sums, call(aten.mul.Tensor, grid.scale, scale))
        self.sums[value] = _Sums(sums, (grid.scale, scale))

    def _is_exact(self, call: fx.Node, grid: _OnGrid) -> bool:
        """Whether float32 represents every possible sum of products of codes exactly."""
        holder = self._module(argument_node(call, 1))
        assert isinstance(holder, FixedWeight)
        largest = weight_codes(holder.weight, holder.scale()).flatten(1).abs().sum(1) * grid.largest
        bias = tensor_of(self.graph, bias_of(call))
        if bias is not None:
            largest = largest + bias_codes(bias, self._module(grid.scale)(), holder.scale()).abs()
        return bool((largest <= EXACT).all())

    def _in_two_parts(self, node: fx.Node, x: fx.Node, codes: fx.Node, bias: fx.Node | None, settings: Any) -> fx.Node:
        """Compute sums in two exact parts, rounded only once, when they are added, like an integer cast to float."""
        call = partial(insert_call, self.graph, node)
        coarse = call(coarse_part, codes)
        fine = call(aten.sub.Tensor, codes, call(aten.mul.Tensor, coarse, COARSE))
        rest = call(aten.mul.Tensor, call(node.target, x, coarse, None, *settings), COARSE)
        return call(aten.add.Tensor, call(node.target, x, fine, bias, *settings), rest)
