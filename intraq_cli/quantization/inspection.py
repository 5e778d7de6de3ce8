"""What would be quantized, what stays float and why, and what it costs: seen by running the network once."""

import math
from collections.abc import Iterable

from torch import Tensor, nn

from intraq_cli.checkpoint.packing import packed_words
from intraq_cli.graph.trace import Layer, Trace
from intraq_cli.quantization.network import Plan
from intraq_cli.results import InspectedLayer

HEADER_BYTES = 100
"""About what a tensor's entry takes in the header of a safetensors file."""


def inspect_layers(trace: Trace, plan: Plan) -> list[InspectedLayer]:
    """Every layer that the network calls, in the order of calls."""
    return [_inspected(layer, plan) for layer in trace.calls]


def _inspected(layer: Layer, plan: Plan) -> InspectedLayer:
    w_bits = plan.weights.get(layer.name) if layer.float_reason is None else None
    site = layer.name if plan.placement == "inputs" else layer.activation
    parameters = math.prod(layer.shape) if layer.shape else 0
    return InspectedLayer(
        name=layer.name,
        kind=layer.kind,
        weight_shape=layer.shape,
        input_shape=layer.input_shape,
        calls=layer.calls,
        parameters=parameters,
        multiply_adds=layer.multiply_adds,
        w_bits=w_bits,
        a_bits=plan.activations.get(site) if site is not None and w_bits is not None else None,
        bytes=4 * parameters if w_bits is None else weight_bytes(layer.shape, w_bits),
        float_reason=layer.float_reason,
    )


def weight_bytes(shape: tuple[int, ...], bits: int) -> int:
    """What a quantized weight takes in a checkpoint: codes, scales, zero-points and shape."""
    out = shape[0]
    return 4 * (out * packed_words(math.prod(shape[1:]), bits) + out + packed_words(out, bits)) + 8 * len(shape)


def float_bytes(tensors: Iterable[Tensor]) -> int:
    """What tensors take as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def expected_bytes(network: nn.Module, trace: Trace, plan: Plan) -> int:
    """Size of ``model.safetensors``, within a few percent."""
    layers = {layer.name: layer for layer in trace.calls if layer.name in plan.weights}
    replaced = {f"{name}.weight" for name in layers} | set(layers)
    kept = {key: tensor for key, tensor in network.state_dict().items() if key not in replaced}
    packed = sum(weight_bytes(layer.shape, plan.weights[name]) for name, layer in layers.items())
    tensors = len(kept) + 4 * len(layers) + 2 * len(plan.activations)
    return float_bytes(kept.values()) + packed + 5 * len(plan.activations) + HEADER_BYTES * tensors
