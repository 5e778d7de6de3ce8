"""Which layers suffer: how far the network moves when one weight, or one layer's input, alone goes to few bits.

The network runs once, node by node; at every quantizer the rest of it runs once more for each width, with this one
quantizer on. What lies before a quantizer is never computed twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from intraq_cli.graph.batch_norms import normalized_layers
from intraq_cli.graph.layers import LAYERS, Layer, is_linear, quantizable, run_layer
from intraq_cli.graph.nodes import argument_node, own_tensors, run_each
from intraq_cli.quantization.affine import fake_quantize, grid_of_values, per_row
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.divergence import kl_at_temperature
from intraq_cli.quantization.float_statistics import channel_moments
from intraq_cli.quantization.input_moments import damped, rows_read, second_moments
from intraq_cli.quantization.network import QuantizedNetwork, bias_on_grid
from intraq_cli.quantization.plan import Plan, plan_quantization
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.quantization.sites import activation_sites
from intraq_cli.recipe import Placement, Quantization
from intraq_cli.results import LayerSensitivity

CALIBRATION = Quantization(activation_range="mse", correction="never")
"""Of what is quantized."""
TEMPERATURE = 4.0
"""Of the softened answers that are compared. The network is sure of its synthetic images: without it the few decide of
which it is less sure (docs/bits.md)."""
BROKEN = 1e6
"""Divergence of answers that are NaN."""
TINY = 1e-12


@dataclass(frozen=True)
class Question:
    """How far the network is from the float one when some quantizers are switched, together."""

    nodes: frozenset[fx.Node]
    widths: tuple[int | None, ...]
    """Bits to switch them on at; None: as they were calibrated."""
    answers: dict[int | None, float] = field(default_factory=dict)
    """Divergence by width."""

    def by_width(self) -> dict[int, float]:
        """Those of widths."""
        return {bits: answer for bits, answer in self.answers.items() if bits is not None}


@dataclass(frozen=True)
class Sensitivities:
    """What was found."""

    layers: list[LayerSensitivity]
    """Every layer that the placement quantizes, in the order of first calls."""
    everything: dict[int, float]
    """Divergence with all of it at so many bits."""


@dataclass(frozen=True)
class Widths:
    """Bits to try."""

    weights: tuple[int, ...]
    """For the weight of one layer, all else float."""
    inputs: tuple[int, ...]
    """For what one layer reads, all else float."""
    spared: tuple[int, ...] = ()
    """For everything but one layer, whose weight and input stay float."""


@torch.no_grad()
def layer_sensitivities(
    graph: fx.GraphModule,
    placement: Placement,
    images: Tensor,
    widths: Widths,
    step: Callable[[int, int], None] = lambda done, count: None,
) -> Sensitivities:
    """How far the network moves by each layer that the placement quantizes.

    Args:
        graph: of the float network, in the form of the placement.
        placement: which activations count as a layer's input: of ``activations``, what leaves the activation before it.
        images: ``(B, C, H, W)``, normalised, on the network's device; all in one run. Weights are rounded by the first
            half of them, divergence is measured on the second.
        widths: to try.
        step: told of how many divergences are known, of how many; first of all that none is.
    """
    layers = quantizable(graph)
    widest = max((*widths.weights, *widths.inputs, *widths.spared))
    network = _Switched(graph, plan_quantization(graph, widest, widest, placement), images)
    read = [network.read_by(layer) for layer in layers]
    weights = [Question(frozenset({network.holders[layer.name]}), widths.weights) for layer in layers]
    inputs = [Question(nodes, widths.inputs if nodes else ()) for nodes in read]
    count = sum(len(one.widths) for one in (*weights, *inputs)) + len(layers) * len(widths.spared)
    step(0, count)
    wanted = network.float_answer()
    network.answer([*weights, *inputs], frozenset(), wanted, lambda done: step(done, count))
    before, everything = count - len(layers) * len(widths.spared), {}
    spared: list[dict[int, float]] = [{} for _ in layers]
    for bits in widths.spared:
        network = _Switched(graph, plan_quantization(graph, bits, bits, placement), images)
        calibrate(network.student, graph, images, CALIBRATION)
        everything[bits] = divergence(network.student(images), wanted)
        asked = [Question(network.read_by(layer) | {network.holders[layer.name]}, (None,)) for layer in layers]
        network.answer(asked, network.quantizers, wanted, lambda done, sofar=before: step(sofar + done, count))  # type: ignore[misc]
        before += len(layers)
        for answers, question in zip(spared, asked, strict=True):
            answers[bits] = question.answers[None]
    rows = zip(layers, weights, inputs, spared, strict=True)
    found = [LayerSensitivity(one.name, one.kind, w.by_width(), a.by_width(), other) for one, w, a, other in rows]
    return Sensitivities(found, everything)


class _Switched(fx.Interpreter):
    """A quantized network, node by node, of whose quantizers some are on; the others let float values through."""

    def __init__(self, graph: fx.GraphModule, plan: Plan, images: Tensor) -> None:
        self.student = QuantizedNetwork(own_tensors(graph), plan).eval()
        super().__init__(self.student.graph)
        self.images, self.order = images, list(self.student.graph.graph.nodes)
        self.holders, site_nodes = self.student.weight_nodes, self.student.site_nodes
        self.floats = {self.holders[name]: holder() for name, holder in self.student.weights.items()}
        sites = activation_sites(graph, plan.placement)
        self._read = {call: node for name, node in site_nodes.items() for call in sites[name].layer_calls}
        self.quantizers = frozenset((*self.floats, *site_nodes.values()))
        self.normalized = normalized_layers(self.student.graph)
        self.before: dict[fx.Node, Tensor] = {}
        """Float inputs of quantizers that are on."""
        self.moments: dict[fx.Node, Tensor | None] = {}
        """Of what the layer reads whose weight was rounded last, by the holder of that."""
        self.rounded: dict[tuple[fx.Node, int], Tensor] = {}
        self.on: frozenset[fx.Node] = frozenset()
        self.bits: int | None = None
        """Of those that are on; None: as they were calibrated."""

    def read_by(self, layer: Layer) -> frozenset[fx.Node]:
        """The quantizers of what a layer reads; none where that is float."""
        return frozenset(self._read[call] for call in layer.calls if call in self._read)

    def float_answer(self) -> Tensor:
        """Logits ``(B, K)`` of the float network."""
        self.on = frozenset()
        return self._rest(0, {})

    def answer(
        self, questions: list[Question], always: frozenset[fx.Node], wanted: Tensor, step: Callable[[int], None]
    ) -> None:
        """Answer all questions in one run of the network.

        Args:
            questions: whose quantizers are switched.
            always: quantizers that are on, where no question is about them.
            wanted: the float network's logits, ``(B, K)``.
            step: told of how many answers are known.
        """
        place = {node: k for k, node in enumerate(self.order)}
        at: dict[int, list[Question]] = {}
        for question in questions:
            if question.widths:
                at.setdefault(min(place[node] for node in question.nodes), []).append(question)
        known: dict[tuple[frozenset[fx.Node], int | None], float] = {}  # layers may read the same value
        done, live = 0, dict[fx.Node, Any]()
        for k, node in enumerate(self.order[:-1]):
            for question in at.get(k, ()):
                self.on = always ^ question.nodes
                for self.bits in question.widths:
                    key = question.nodes, self.bits
                    if key not in known:
                        known[key] = divergence(self._rest(k, live), wanted)
                    question.answers[self.bits] = known[key]
                    done += 1
                    step(done)
            self.on, self.bits = always, None
            self._run([node], live)

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does, but for quantizers, and for layers whose weight or input is quantized alone."""
        if n.target is bias_on_grid:  # rounding it is no part of the question
            return self.env[argument_node(n)]
        if n in self.quantizers and n not in self.on:
            return self.floats[n] if n in self.floats else self.env[argument_node(n)]
        if self.bits is None:
            return super().run_node(n)
        if n in self.floats:
            return None  # not before the layer's input is there
        if n in self.quantizers:
            x = self.before[n] = self.env[argument_node(n)]
            return fake_quantize(x, *grid_of_values(x, 2**self.bits - 1), 2**self.bits - 1)
        if n.op == "call_function" and n.target in LAYERS and self.on & {*n.args[:2]}:
            return self._layer(n, self.bits)
        return super().run_node(n)

    def _layer(self, call: fx.Node, bits: int) -> Tensor:
        """What a layer puts out, with mean (and variance, before a batch norm) of every channel as the float one's."""
        source, holding, biased = cast("tuple[fx.Node, fx.Node, fx.Node | None]", call.args[:3])
        read: Tensor = self.env[source]
        holder: Tensor | None = self.env[holding]
        bias = None if biased is None else self.env[biased]
        x, weight = self.before.get(source, read), self.floats[holding]
        wanted, linear = run_layer(call, x, weight, bias), is_linear(call)
        got = run_layer(call, read, self._rounded(call, x, bits) if holder is None else holder, bias)
        (mean, var), (own_mean, own_var) = channel_moments(wanted, linear), channel_moments(got, linear)
        gain = ((var + TINY) / (own_var + TINY)).sqrt() if call in self.normalized else torch.ones_like(mean)
        dims = 1 if linear else got.dim() - 1
        return (got - per_row(own_mean, dims)) * per_row(gain, dims) + per_row(mean, dims)

    def _rounded(self, call: fx.Node, x: Tensor, bits: int) -> Tensor:
        """A layer's weight, rounded by what it reads."""
        holder = cast(fx.Node, call.args[1])
        if (holder, bits) not in self.rounded:
            if holder not in self.moments:
                first_half = x[: len(x) // 2]
                rows = rows_read(call, first_half, self.floats[holder], call in self.normalized)
                moments = None if rows is None else damped(second_moments(rows), rows.shape[1])
                self.rounded, self.moments = {}, {holder: moments}
            made = WeightQuantizer(self.floats[holder], bits, CALIBRATION, self.moments[holder])
            self.rounded[holder, bits] = made()
        return self.rounded[holder, bits]

    def _rest(self, k: int, live: dict[fx.Node, Any]) -> Tensor:
        """Logits from the ``k``-th node on; ``live``: what was computed before it and is still needed."""
        return self._run(self.order[k:], dict(live))

    def _run(self, nodes: list[fx.Node], live: dict[fx.Node, Any]) -> Any:
        """The value of the last of some nodes; those that are still needed are put into ``live``."""
        for node in run_each(self, nodes, self.images, live):
            value = self.env[node]
        return value


def divergence(got: Tensor, wanted: Tensor) -> float:
    """Of two networks' logits ``(B, K)``: Kullback-Leibler divergence at :data:`TEMPERATURE`, on the second half.

    Weights are rounded by the first half: on images that the rounding goes by, a layer that reads few rows looks better
    than it is.
    """
    half = len(got) // 2
    found = float(kl_at_temperature(got[half:], wanted[half:], TEMPERATURE))
    return BROKEN if math.isnan(found) else max(0.0, found)
