"""The choice of weights and activations to quantize, and of their bits."""

from dataclasses import dataclass, field

from torch import fx

from intraq_cli.choices import Placement
from intraq_cli.errors import ModelError
from intraq_cli.graph.integer_form import integer_form
from intraq_cli.graph.layers import Layer, quantizable, reads_image
from intraq_cli.quantization.bit_rules import NO_RULES, BitRules
from intraq_cli.quantization.sites import Site, activation_sites

IMAGE_BITS = 8
"""Bits of the image itself, in the placements that quantize every layer's input."""
VALUE_BITS = 8
"""Bits of activations that go between operations other than layers, in placement ``integer``."""
LARGEST_PAIR = 2**15 - 1
"""CPUs without integer dot products add two products of 8-bit codes in signed 16 bits, which saturate at this value."""


@dataclass(frozen=True)
class Plan:
    """What is quantized, and at how many bits."""

    placement: Placement
    weights: dict[str, int]
    """Layer name to bits, in the order of first calls."""
    activations: dict[str, int]
    """Site name to bits, see :func:`intraq_cli.quantization.sites.activation_sites`."""
    limits: dict[str, int] = field(default_factory=dict)
    """Layer name to the largest absolute code of its weight, for symmetric grids."""


def form_of(graph: fx.GraphModule, placement: Placement) -> fx.GraphModule:
    """Return the graph of a float network in the form that a placement quantizes."""
    return integer_form(graph) if placement == "integer" else graph


def plan_quantization(
    graph: fx.GraphModule,
    w_bits: int,
    a_bits: int,
    placement: Placement,
    first_last_bits: int | None = None,
    rules: BitRules = NO_RULES,
) -> Plan:
    """Plan the quantization of every convolution and linear layer that the network calls, from first to last.

    Args:
        graph: graph of the float network, in the form of the placement.
        w_bits: bits of weights.
        a_bits: bits of activations.
        placement: ``inputs`` of layers; outputs of ``activations``, except those after the last layer; or all that an
            ``integer`` runtime needs.
        first_last_bits: bits of the weights of the first and the last layer and of their inputs, except for the image
            and for inputs in placement ``activations``.
        rules: other bits for single layers, by name. An activation function's output has the most bits of those that
            the layers that read it ask for. The image has 8 bits if no rule matches the first layer's input.

    Raises:
        ModelError: a rule matches no layer; in placement ``activations``, no ReLU-like activation precedes a layer.
    """
    found = quantizable(graph)
    ends = {found[0].name, found[-1].name} if first_last_bits else set()
    own = {layer.name: first_last_bits if layer.name in ends and first_last_bits else None for layer in found}
    weights = {name: rules.weight_bits(name, end or w_bits) for name, end in own.items()}
    sites = {name: site for name, site in activation_sites(graph, placement).items() if not site.needless}
    calls = {call for site in sites.values() for call in site.layer_calls}
    rules.check([layer.name for layer in found], [layer.name for layer in found if calls & {*layer.calls}])
    if placement == "activations":
        if not sites:
            raise ModelError("the network has no ReLU-like activation before a layer", "use --act-placement inputs")
        read = {call: rules.input_bits(layer.name, a_bits) for layer in found for call in layer.calls}
        wanted = {name: [read[call] for call in site.layer_calls] for name, site in sites.items()}
        return Plan(placement, weights, {name: max(bits, default=a_bits) for name, bits in wanted.items()})
    inputs: dict[fx.Node, int] = {}
    for k, layer in enumerate(found):
        bits = rules.input_bits(layer.name, own[layer.name] or a_bits)
        # the first layer reads the image even if the network itself normalises or rearranges it before
        reads = k == 0 or reads_image(graph, layer)
        first = rules.input_bits(layer.name, IMAGE_BITS) if reads else bits
        inputs |= {call: first if j == 0 else bits for j, call in enumerate(layer.calls)}
    if placement == "inputs":
        return Plan(placement, weights, {name: inputs[site.layer_calls[0]] for name, site in sites.items()})
    return Plan(placement, weights, _integer_bits(sites, inputs), _limits(found, weights, inputs))


def at_eight_bits(plan: Plan) -> Plan:
    """Return the plan with 8 bits for everything that it quantizes."""
    weights, activations = (dict.fromkeys(bits, 8) for bits in (plan.weights, plan.activations))
    limits = dict.fromkeys(weights, _largest_code(8)) if plan.placement == "integer" else {}
    return Plan(plan.placement, weights, activations, limits)


def bits_read(graph: fx.GraphModule, plan: Plan) -> dict[fx.Node, int]:
    """Return the bits of layers' inputs by call node; calls that read floats are left out."""
    sites = activation_sites(graph, plan.placement)
    return {call: bits for name, bits in plan.activations.items() for call in sites[name].layer_calls}


def layer_bits(graph: fx.GraphModule, plan: Plan) -> dict[str, tuple[int, int]]:
    """Return the bits of each layer's weight and of its first call's input; layers that read floats are left out.

    ``graph`` is in the form of the plan's placement.
    """
    read = bits_read(graph, plan)
    planned = [layer for layer in quantizable(graph) if layer.name in plan.weights and layer.calls[0] in read]
    return {layer.name: (plan.weights[layer.name], read[layer.calls[0]]) for layer in planned}


def _integer_bits(sites: dict[str, Site], inputs: dict[fx.Node, int]) -> dict[str, int]:
    """Return a value's bits: those of its readers if only layers read it; else layers may requantize to fewer bits."""
    bits: dict[str, int] = {}
    known: dict[fx.Node, int] = {}
    for name, site in sites.items():
        wanted = {inputs[call] for call in site.layer_calls}
        if site.reader is None:
            bits[name] = wanted.pop() if site.only_layers and len(wanted) == 1 else VALUE_BITS
            known |= dict.fromkeys(site.layer_calls, bits[name])
        elif inputs[site.reader] < known.get(site.reader, VALUE_BITS + 1):
            bits[name] = inputs[site.reader]
    return bits


def _limits(found: list[Layer], weights: dict[str, int], inputs: dict[fx.Node, int]) -> dict[str, int]:
    """Limit codes so that code minus zero-point fits signed 8 bits, and sums of two products fit signed 16 bits."""
    limits = {}
    for layer in found:
        bits, widest = weights[layer.name], max(inputs[call] for call in layer.calls)
        largest = _largest_code(widest)
        if 2**bits - 1 > largest:
            limits[layer.name] = min(largest, 2 ** (bits - 1) - 1)
    return limits


def _largest_code(widest: int) -> int:
    """Return the largest absolute weight code in a layer that reads values of at most ``widest`` bits."""
    return min(127, LARGEST_PAIR // (2 * (2**widest - 1)))
