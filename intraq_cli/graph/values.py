"""What an integer runtime does with the values between layers: which calls compute, clamp, or only move values."""

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from intraq_cli.graph.nodes import argument_node, arguments, constant_nodes, pair

aten = torch.ops.aten

CARRIERS = (
    aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.permute.default, aten.transpose.int,
    aten.t.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
    aten.slice.Tensor, aten.select.int, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes,
    aten.chunk.default, aten.unbind.int, aten.expand.default, aten.repeat.default, aten.clone.default,
    aten.contiguous.default, aten.movedim.int, aten.flip.default, aten.roll.default, aten.narrow.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default,
    aten.max_pool2d.default, aten.max_pool2d_with_indices.default, aten.adaptive_max_pool2d.default,
    aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec, aten.index_select.default,
)  # fmt: skip
"""Calls that only move or select values of their first argument: values on a grid stay on it."""
PADS = (aten.pad.default, aten.constant_pad_nd.default)
AVERAGES = (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
CLAMPS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)


def clamp_bounds(node: fx.Node) -> tuple[float, float] | None:
    """Return the bounds to which a call clamps its first argument; None if it is not a clamp with fixed bounds."""
    if node.op != "call_function" or node.target not in CLAMPS:
        return None
    if node.target is aten.relu.default:
        return 0.0, math.inf
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    given = arguments(node)
    low, high = (given.get("min_val"), given.get("max_val")) if "min_val" in given else (given["min"], given.get("max"))
    if any(isinstance(bound, fx.Node) for bound in (low, high)):
        return None
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def without_clamps(node: fx.Node) -> tuple[fx.Node, float, float]:
    """Return the node before a chain of clamps that ends in ``node``, each with a single reader, and their bounds."""
    low, high = -math.inf, math.inf
    while (bounds := clamp_bounds(node)) is not None and len(node.users) == 1:
        low, high = (min(max(bound, low), high) for bound in bounds)  # the outer clamp takes precedence
        node = argument_node(node)
    return node, low, high


def zeros_around(node: fx.Node) -> tuple[int, int, int, int] | None:
    """Return top, left, bottom and right padding if a call pads images with zeros; negative padding crops."""
    if node.target not in PADS:
        return None
    given: dict[str, Any] = arguments(node)
    if given.get("mode", "constant") != "constant" or given.get("value") or len(given["pad"]) > 4:
        return None
    left, right, top, bottom = [*given["pad"], 0, 0, 0, 0][:4]
    return top, left, bottom, right


DIVISIONS: dict[Any, int] = {
    aten.div.Tensor: 1,
    **dict.fromkeys((aten.reciprocal.default, aten.rsqrt.default, aten.log.default, aten.log2.default), 0),
}
"""Calls that output NaN or infinity where the argument of this index is zero."""
TOWARDS_DIVISORS = (
    aten.add.Tensor, aten.clamp.default, aten.clamp_min.default, aten.sqrt.default,
    aten.sum.dim_IntList, *AVERAGES,
)  # fmt: skip
"""Calls between a value and a division by it, such as ``x + 1e-6``."""


def carries(node: fx.Node) -> bool:
    """Whether a call only moves or selects values of its first argument, possibly padded with zeros."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.target in PADS:
        given: dict[str, Any] = arguments(node)
        # padding with minus infinity is allowed, as max pooling never selects it
        value = given.get("value")
        return given.get("mode", "constant") != "constant" or value is None or value in (0, -math.inf)
    if node.target is operator.getitem:
        return carries(node.args[0]) and is_float(node)  # max pooling may also output indices
    return node.target in CARRIERS


def is_integer_operation(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether integer runtimes compute a call that is not a layer on the codes of its inputs."""
    if node.target in (aten.add.Tensor, aten.mul.Tensor):
        activations = [x for x in node.args[:2] if isinstance(x, fx.Node) and x not in constant and is_float(x)]
        return len(activations) == 2 and bool(node.kwargs.get("alpha", 1) == 1)
    return averages_spatially(node) or node.target in (aten.cat.default, aten.sigmoid.default, aten.leaky_relu.default)


def averages_spatially(node: fx.Node) -> bool:
    """Whether a call averages each channel of ``(B, C, H, W)`` over all positions: by pooling or a mean."""
    if node.target is aten.mean.dim:
        shape = argument_node(node).meta.get("shape", ())
        dims: Any = arguments(node)["dim"]
        return len(shape) == 4 and sorted(d % 4 for d in dims or ()) == [2, 3]
    return node.target in AVERAGES


def keeps_places(node: fx.Node) -> bool | None:
    """Return whether a mean over all positions of ``(B, C, H, W)`` keeps both dimensions; None for other calls."""
    if node.target not in AVERAGES or len(shape := argument_node(node).meta["shape"]) != 4:
        return None
    given = arguments(node)
    if node.target is aten.mean.dim:
        return bool(given["keepdim"]) if averages_spatially(node) else None
    if node.target is aten.adaptive_avg_pool2d.default:
        return True if set(given["output_size"]) == {1} else None
    whole = pair(given["kernel_size"]) == tuple(shape[2:]) and not any(given["padding"])
    return True if whole and given["divisor_override"] is None else None


def is_float(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of floats."""
    return bool(getattr(node.meta.get("dtype"), "is_floating_point", False))


def final_readers(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the calls that compute with a value, also through :func:`carries`, each with the node that it reads."""
    for user in node.users:
        if carries(user) and user.args[0] is node:
            yield from final_readers(user)
        else:
            yield user, node


def is_divisor(node: fx.Node) -> bool:
    """Whether a value, or a simple function of it, is a divisor: a grid might round the value to zero."""
    for user, read in final_readers(node):
        if user.target in DIVISIONS and user.args[DIVISIONS[user.target]] is read:
            return True
        if user.target in TOWARDS_DIVISORS and len(user.all_input_nodes) == 1 and is_divisor(user):
            return True
    return False


def is_logits(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value is the logits, possibly after reshapes and clamps."""
    end = graph.graph.output_node()
    return any(user is end for user, _ in final_readers(node)) or any(
        clamp_bounds(user) is not None and is_logits(graph, user) for user in node.users
    )


def values(graph: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Map each call that computes a value, rather than only moves values, to the node that holds the value.

    That is the call itself, or the last of the clamps that alone read it: they cost nothing if the value is quantized.
    """
    found: dict[fx.Node, fx.Node] = {}
    absorbed = constant_nodes(graph)
    for node in graph.graph.nodes:
        if node.op not in ("placeholder", "call_function") or not is_float(node) or carries(node) or node in absorbed:
            continue
        held = node
        while len(held.users) == 1 and clamp_bounds(user := next(iter(held.users))) is not None:
            held = user
            absorbed.add(held)
        found[node] = held
    return found
