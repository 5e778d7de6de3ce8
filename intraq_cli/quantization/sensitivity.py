"""Sensitivity of layers: the divergence when one layer's weight, or one layer's input, alone is quantized.

The network runs once, node by node. At every quantizer, the rest of the network runs once more for each width, with
only this quantizer on. Nothing before a quantizer is computed twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from intraq_cli.choices import Placement
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
from intraq_cli.recipe import Quantization
from intraq_cli.results import LayerSensitivity

CALIBRATION = Quantization(activation_range="mse", correction="never")
"""Quantization settings for the measurement."""
TEMPERATURE = 4.0
"""Temperature of the divergence. The network is confident on most of its synthetic images: at temperature 1 the few
images on which it is less confident would dominate (docs/bits.md)."""
BROKEN = 1e6
"""Divergence that stands for NaN logits."""
TINY = 1e-12


Known = dict[str, dict[str, float]]
"""Divergences of a measurement that is not finished: by its part, and by quantizers and width."""


@dataclass(frozen=True)
class Trial:
    """The divergence from the float network when some quantizers are switched on (or off) together."""

    nodes: frozenset[fx.Node]
    widths: tuple[int | None, ...]
    """Bits to switch them on at; None: as calibrated."""
    divergences: dict[Any, float] = field(default_factory=dict)
    """Divergence by width."""


@dataclass(frozen=True)
class Sensitivities:
    """The measured divergences."""

    layers: list[LayerSensitivity]
    """Every layer that the placement quantizes, in the order of first calls."""
    everything: dict[int, float]
    """Bits to divergence with everything quantized at these bits."""


@dataclass(frozen=True)
class Widths:
    """Bits to try."""

    weights: tuple[int, ...]
    """Bits of the weight of one layer, all else float."""
    inputs: tuple[int, ...]
    """Bits of the input of one layer, all else float."""
    spared: tuple[int, ...] = ()
    """Bits of everything except one layer, whose weight and input stay float."""


@torch.no_grad()
def layer_sensitivities(
    graph: fx.GraphModule,
    placement: Placement,
    images: Tensor,
    widths: Widths,
    step: Callable[[int, int], None] = lambda done, count: None,
    known: Known | None = None,
) -> Sensitivities:
    """Measure the sensitivity of every layer that the placement quantizes.

    Args:
        graph: graph of the float network, in the form of the placement.
        placement: what counts as a layer's input: in ``activations``, the output of the activation function before it.
        images: ``(B, C, H, W)``, normalised, on the network's device; all run in one batch. Weights are rounded by the
            first half of them, divergence is measured on the second.
        widths: widths to try.
        step: called with the number of divergences measured so far and the total; first with 0.
        known: divergences of an interrupted measurement, which are not measured again; new ones are added.
    """
    known = {} if known is None else known
    layers = quantizable(graph)
    widest = max((*widths.weights, *widths.inputs, *widths.spared))
    network = _Switched(graph, plan_quantization(graph, widest, widest, placement), images)
    read = [network.read_by(layer) for layer in layers]
    weights = [Trial(frozenset({network.holders[layer.name]}), widths.weights) for layer in layers]
    inputs = [Trial(nodes, widths.inputs if nodes else ()) for nodes in read]
    count = sum(len(one.widths) for one in (*weights, *inputs)) + len(layers) * len(widths.spared)
    step(0, count)
    wanted = network.float_logits()
    single = known.setdefault("single layers", {})
    network.measure([*weights, *inputs], frozenset(), wanted, single, lambda done: step(done, count))
    before, everything = count - len(layers) * len(widths.spared), {}
    spared: list[dict[int, float]] = [{} for _ in layers]
    for bits in widths.spared:
        network = _Switched(graph, plan_quantization(graph, bits, bits, placement), images)
        calibrate(network.student, graph, images, CALIBRATION)
        everything[bits] = divergence(network.student(images), wanted)
        trials = [Trial(network.read_by(layer) | {network.holders[layer.name]}, (None,)) for layer in layers]
        here = known.setdefault(f"all but one at {bits} bits", {})
        network.measure(trials, network.quantizers, wanted, here, lambda done, sofar=before: step(sofar + done, count))  # type: ignore[misc]
        before += len(layers)
        for divergences, trial in zip(spared, trials, strict=True):
            divergences[bits] = trial.divergences[None]
    rows = zip(layers, weights, inputs, spared, strict=True)
    found = [LayerSensitivity(one.name, one.kind, w.divergences, a.divergences, other) for one, w, a, other in rows]
    return Sensitivities(found, everything)


class _Switched(fx.Interpreter):
    """Runs a quantized network node by node with some quantizers on; the others pass floats through."""

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
        """Quantizer node to its float input, for quantizers that are on."""
        self.moments: dict[fx.Node, Tensor | None] = {}
        """Weight node to second moments of the layer's input, for the layer whose weight was rounded last."""
        self.rounded: dict[tuple[fx.Node, int], Tensor] = {}
        self.on: frozenset[fx.Node] = frozenset()
        self.bits: int | None = None
        """Bits of the quantizers that are on; None: as calibrated."""

    def read_by(self, layer: Layer) -> frozenset[fx.Node]:
        """Return the quantizers of a layer's inputs; float inputs have none."""
        return frozenset(self._read[call] for call in layer.calls if call in self._read)

    def float_logits(self) -> Tensor:
        """Return the float network's logits ``(B, K)``."""
        self.on = frozenset()
        return self._rest(0, {})

    def measure(
        self,
        trials: list[Trial],
        always: frozenset[fx.Node],
        wanted: Tensor,
        known: dict[str, float],
        step: Callable[[int], None],
    ) -> None:
        """Measure all trials in one run of the network.

        Args:
            trials: the divergences to measure; filled in place.
            always: quantizers that are on by default; a trial toggles its own.
            wanted: the float network's logits, ``(B, K)``.
            known: divergences by quantizers and width, which are not measured again (layers may read the same value).
            step: called with the number of divergences so far.
        """
        place = {node: k for k, node in enumerate(self.order)}
        at: dict[int, list[Trial]] = {}
        for trial in trials:
            if trial.widths:
                at.setdefault(min(place[node] for node in trial.nodes), []).append(trial)
        done, live = 0, dict[fx.Node, Any]()
        for k, node in enumerate(self.order[:-1]):
            for trial in at.get(k, ()):
                self.on = always ^ trial.nodes
                for self.bits in trial.widths:
                    key = f"{' '.join(sorted(node.name for node in trial.nodes))} {self.bits}"
                    if key not in known:
                        known[key] = divergence(self._rest(k, live), wanted)
                    trial.divergences[self.bits] = known[key]
                    done += 1
                    step(done)
            self.on, self.bits = always, None
            self._run([node], live)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as the interpreter does, except for quantizers and layers whose weight or input is quantized."""
        if n.target is bias_on_grid:  # the rounding of biases is not measured
            return self.env[argument_node(n)]
        if n in self.quantizers and n not in self.on:
            return self.floats[n] if n in self.floats else self.env[argument_node(n)]
        if self.bits is None:
            return super().run_node(n)
        if n in self.floats:
            return None  # the weight is rounded later, when the layer's input is known
        if n in self.quantizers:
            x = self.before[n] = self.env[argument_node(n)]
            return fake_quantize(x, *grid_of_values(x, 2**self.bits - 1), 2**self.bits - 1)
        if n.op == "call_function" and n.target in LAYERS and self.on & {*n.args[:2]}:
            return self._layer(n, self.bits)
        return super().run_node(n)

    def _layer(self, call: fx.Node, bits: int) -> Tensor:
        """Run a layer, with each channel's mean (and variance, before a batch norm) corrected to the float layer's."""
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
        """Round a layer's weight by the second moments of its input."""
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
        """Compute the logits from the ``k``-th node on; ``live`` holds earlier values that are still needed."""
        return self._run(self.order[k:], dict(live))

    def _run(self, nodes: list[fx.Node], live: dict[fx.Node, Any]) -> Any:
        """Run some nodes and return the value of the last; values that are still needed are stored in ``live``."""
        for node in run_each(self, nodes, self.images, live):
            value = self.env[node]
        return value


def divergence(got: Tensor, wanted: Tensor) -> float:
    """Compute the KL divergence of logits ``(B, K)`` at :data:`TEMPERATURE` on the second half of the images.

    Weights are rounded by the first half: measured on these images, a layer with few input rows would look better than
    it is.
    """
    half = len(got) // 2
    found = float(kl_at_temperature(got[half:], wanted[half:], TEMPERATURE))
    return BROKEN if math.isnan(found) else max(0.0, found)
