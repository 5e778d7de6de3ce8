"""Which layers suffer: how far the network moves when one weight, or one layer's input, alone goes to few bits."""

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.graph.layers import quantizable
from intraq_cli.graph.nodes import own_tensors
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import Plan, bits_read, plan_quantization
from intraq_cli.quantization.sites import sites
from intraq_cli.recipe import Placement, Quantization
from intraq_cli.results import LayerSensitivity

CALIBRATION = Quantization(weight_rounding="balanced", activation_range="mse", correction="never")
"""Of the one that is quantized: quick, and the same for all."""


def layer_sensitivities(
    graph: fx.GraphModule,
    placement: Placement,
    images: Tensor,
    widths: tuple[int, ...],
    step: Callable[[int], None] = lambda done: None,
) -> list[LayerSensitivity]:
    """Of every layer that the placement quantizes, in the order of first calls; everything else stays float.

    Args:
        graph: of the float network, in the form of the placement.
        placement: which activations count as a layer's input: of ``activations``, what leaves the activation before it.
        images: ``(B, C, H, W)``, normalised, on the network's device; all in one run.
        widths: bits to try.
        step: told of how many are done, of as many as there are layers times widths times two.
    """
    with torch.no_grad():
        wanted = graph(images).log_softmax(1)
    plan, places = plan_quantization(graph, max(widths), max(widths), placement), sites(graph, placement)
    site_of = {call: name for name in plan.activations for call in places[name].layer_calls}
    read, done, found = bits_read(graph, plan), 0, []
    for layer in quantizable(graph):
        weights: dict[int, float] = {}
        inputs: dict[int, float] = {}
        own = {site_of[call] for call in layer.calls if call in read}
        for bits in widths:
            weights[bits] = _divergence(graph, Plan(placement, {layer.name: bits}, {}), images, wanted)
            done += 1
            step(done)
            if own:
                inputs[bits] = _divergence(graph, Plan(placement, {}, dict.fromkeys(sorted(own), bits)), images, wanted)
            done += 1
            step(done)
        found.append(LayerSensitivity(layer.name, layer.kind, weights, inputs))
    return found


@torch.no_grad()
def _divergence(graph: fx.GraphModule, plan: Plan, images: Tensor, wanted: Tensor) -> float:
    """In nats an image, from log-probabilities ``(B, K)``."""
    student = QuantizedNetwork(own_tensors(graph), plan).eval()
    calibrate(student, graph, images, CALIBRATION)
    got = student(images).log_softmax(1)
    return max(0.0, float(F.kl_div(got, wanted, reduction="batchmean", log_target=True)))
