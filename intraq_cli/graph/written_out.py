"""Products of activations and weights that are written out in elementwise multiplications."""

import torch
from torch import fx

from intraq_cli.graph.nodes import argument_node, numel, sources
from intraq_cli.graph.values import carries

aten = torch.ops.aten


def _factor(node: fx.Node, constant: set[fx.Node]) -> fx.Node | None:
    """Return the weights of a call that multiplies activations by weights elementwise; None for other calls."""
    weights = [source for source in node.all_input_nodes if source in constant]
    both = node.target is aten.mul.Tensor and [len(node.all_input_nodes), len(weights)] == [2, 1]
    tensors = all("shape" in source.meta for source in node.all_input_nodes)
    return weights[0] if both and tensors and numel(weights[0]) > 1 else None


def is_spread(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call multiplies each activation by several weights: an outer product by broadcasting."""
    weights = _factor(node, constant)
    return weights is not None and all(numel(x) < numel(node) for x in node.all_input_nodes if x is not weights)


def is_tap(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call is one of several terms of a sum that multiply parts of one tensor by parts of one parameter.

    This is a filter as a sum of shifts. Scales of branches are not such terms: they multiply different tensors.
    """
    own = _factor(node, constant)
    if own is None:
        return False
    root = node
    while len(root.users) == 1 and (reader := next(iter(root.users))).target is aten.add.Tensor:
        root = reader
    whole = _whole(node, own)
    return any(
        (other := _factor(term, constant)) not in (None, own)
        and sources(other) == sources(own)
        and _whole(term, other) is whole
        for term in _terms(root)
    )


def _whole(node: fx.Node, weights: fx.Node) -> fx.Node:
    """Return the tensor that the activations of a product are a part of."""
    (x,) = (source for source in node.all_input_nodes if source is not weights)
    while carries(x):
        x = argument_node(x)
    return x


def _terms(total: fx.Node) -> list[fx.Node]:
    """Return the terms of a sum, also of sums in it that nothing else reads."""
    terms, todo = [], [total]
    while todo:
        node = todo.pop()
        if node.target is aten.add.Tensor and (node is total or len(node.users) == 1):
            todo += node.all_input_nodes
        else:
            terms.append(node)
    return terms
