"""Which weights and which activations are quantized, and at how many bits."""

from dataclasses import dataclass

from torch import fx

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.graph.layers import activation_calls, quantizable, reads_image
from intraq_cli.recipe import Placement

IMAGE_BITS = 8
"""Bits of the image itself, in the placement that quantizes every layer's input."""


@dataclass(frozen=True)
class Plan:
    """What is quantized, and at which bits."""

    placement: Placement
    weights: dict[str, int]
    """Layer name to bits, in the order of first calls."""
    activations: dict[str, int]
    """Name of an activation quantizer to bits, in the order of calls: of a layer's call (its input), or of an
    activation's call (its output)."""


def plan_quantization(
    graph: fx.GraphModule, w_bits: int, a_bits: int, placement: Placement, first_last_bits: int | None = None
) -> Plan:
    """Decide what is quantized: every convolution and linear layer that the network calls, from the first to the last.

    Args:
        graph: of the float network.
        w_bits: of weights.
        a_bits: of activations.
        placement: ``inputs`` of layers, or outputs of ``activations``.
        first_last_bits: other bits for the first and the last layer.

    Raises:
        ModelError: the network has no ReLU-like activation, and the placement asks for them.
    """
    found = quantizable(graph)
    ends = {found[0].name, found[-1].name} if first_last_bits else set()
    weights = {layer.name: first_last_bits if layer.name in ends and first_last_bits else w_bits for layer in found}
    if placement == "activations":
        named = activation_calls(graph)
        if not named:
            raise ModelError("the network calls no ReLU-like activation", "use --act-placement inputs")
        return Plan(placement, weights, dict.fromkeys(named.values(), a_bits))
    inputs: dict[str, int] = {}
    for k, layer in enumerate(found):
        bits = first_last_bits if layer.name in ends and first_last_bits else a_bits
        # the first layer too where the network itself normalises or rearranges the image
        first = IMAGE_BITS if k == 0 or reads_image(graph, layer) else bits
        inputs |= {site: first if j == 0 else bits for j, site in enumerate(layer.sites.values())}
    sites = sorted((call, site) for layer in found for call, site in layer.sites.items())
    return Plan(placement, weights, {site: inputs[site] for _, site in sites})


def check_bits(w: int, a: int, first_last_bits: int | None) -> None:
    """Refuse widths that are not 2 to 8 bits.

    Raises:
        UsageError: one is not.
    """
    for name, bits in (("--w", w), ("--a", a), ("--first-last-bits", first_last_bits)):
        if bits is not None and not 2 <= bits <= 8:
            raise UsageError(f"{name} {bits}: bits must be 2 to 8")
