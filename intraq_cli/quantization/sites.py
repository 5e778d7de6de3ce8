"""Sites where activations can be quantized: each is a value of the graph, and the calls that read it quantized."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from intraq_cli.choices import Placement
from intraq_cli.graph.layers import Layer, activation_calls, is_linear, quantizable
from intraq_cli.graph.nodes import argument_node, calls, constant_nodes, input_node, names_of_calls
from intraq_cli.graph.products import before_layers
from intraq_cli.graph.values import clamp_bounds, final_readers, is_divisor, is_integer_operation, is_logits, values


@dataclass(frozen=True)
class Site:
    """A value of the graph that an activation quantizer can be put on."""

    value: fx.Node
    """The value to quantize; for a layer's input, the value that the call reads, which may be quantized already."""
    reader: fx.Node | None
    """The layer's call that reads it quantized; None: all readers do."""
    layer_calls: tuple[fx.Node, ...] = ()
    """Calls of layers that compute with it, also after reshapes and the like."""
    only_layers: bool = True
    """Whether no other call computes with it."""
    needless: bool = False
    """Whether plans leave it out. An activation that only leads to the logits: no layer reads it. In ``integer``, what
    leads from linear layers to the logits: runtimes need no grid there, and a grid would give several classes the same
    value; checkpoints of older versions have it."""


def activation_sites(graph: fx.GraphModule, placement: Placement) -> dict[str, Site]:
    """Return all sites for activation quantizers in a placement, by name, in the order of the graph."""
    found = quantizable(graph)
    if placement == "activations":
        layer_calls, needed = {call for layer in found for call in layer.calls}, before_layers(graph)
        return {
            name: Site(call, None, _readers_among(layer_calls, final_readers(call)), needless=call not in needed)
            for call, name in activation_calls(graph).items()
        }
    named = [(call, name) for layer in found for call, name in layer.input_names.items()]
    inputs = {name: Site(argument_node(call), call, (call,)) for call, name in named}
    if placement == "inputs":
        return dict(sorted(inputs.items(), key=lambda item: item[1].layer_calls[0]))
    return _of_values(graph, found) | {_named(name, "input"): site for name, site in inputs.items()}


def _readers_among(layer_calls: set[fx.Node], readers: Iterable[tuple[fx.Node, fx.Node]]) -> tuple[fx.Node, ...]:
    """Return the layers' calls among a value's final readers that read it as their input, without duplicates."""
    return tuple(dict.fromkeys(user for user, read in readers if user in layer_calls and user.args[0] is read))


def _named(name: str, end: str) -> str:
    return f"{name}.{end}".lstrip(".")  # a call in the network's own forward has an empty name


def _on_integers(
    graph: fx.GraphModule, layer_calls: set[fx.Node], readers: dict[fx.Node, list[tuple[fx.Node, fx.Node]]]
) -> set[fx.Node]:
    """Return the layers' calls, and the integer operations that are connected to them through other integer operations.

    Other operations lie between two float operations (an average between two powers): a grid would gain nothing.
    """
    constant = constant_nodes(graph)
    found, able = set(layer_calls), {node for node in calls(graph) if is_integer_operation(node, constant)}
    links = [(call, user) for call, found_readers in readers.items() for user, _ in found_readers]
    while more := {b for link in links for a, b in (link, link[::-1]) if a in found and b in able - found}:
        found |= more
    return found


def _after_linear_layers(
    graph: fx.GraphModule, layer_calls: set[fx.Node], readers: dict[fx.Node, list[tuple[fx.Node, fx.Node]]]
) -> set[fx.Node]:
    """Return the linear layers that only lead to the logits, and what is computed from their outputs alone.

    Layers with a clamp that others read are not among them: onnxruntime would merge both into a float operation.
    """
    before, made_from = before_layers(graph), dict[fx.Node, set[fx.Node]]()
    for call, found_readers in readers.items():
        for user, _ in found_readers:
            made_from.setdefault(user, set()).add(call)
    found = set[fx.Node]()
    for call in readers:
        clamped = any(clamp_bounds(user) is not None for user in call.users)
        last = is_linear(call) and not clamped if call in layer_calls else made_from.get(call, {call}) <= found
        if last and call not in before:
            found.add(call)
    return found


def _of_values(graph: fx.GraphModule, found: list[Layer]) -> dict[str, Site]:
    """Return the values that integer operations output or read, except the logits and divisors not made by a layer."""
    layer_calls = {call for layer in found for call in layer.calls}
    found_values = values(graph)
    readers = {call: list(final_readers(value)) for call, value in found_values.items()}
    on_integers = _on_integers(graph, layer_calls, readers)
    after = _after_linear_layers(graph, layer_calls, readers)
    made: dict[fx.Node, Site] = {}
    for call, value in found_values.items():
        users = readers[call]
        by_layers = _readers_among(layer_calls, users)
        if is_logits(graph, call) or not (call in on_integers or any(user in on_integers for user, _ in users)):
            continue
        if call not in layer_calls and is_divisor(value):  # a layer's own output must be quantized to run on integers
            continue
        others = [user for user, read in users if user not in by_layers or user.args[0] is not read]
        made[call] = Site(value, None, by_layers, not others, call in after)
    image = input_node(graph)
    names = {image: "image"} if image in made else {}
    names |= names_of_calls([call for call in made if call is not image])
    taken: dict[str, Site] = {}
    for call, name in names.items():
        while _named(name, "output") in taken:
            name += "'"
        taken[_named(name, "output")] = made[call]
    return taken
