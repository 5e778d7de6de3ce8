"""Passes that let a graph return more than its logits."""

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from intraq_cli.graph.batch_norms import normalized_outputs
from intraq_cli.graph.layers import features
from intraq_cli.graph.nodes import also_return, copy_graph, finish, input_node, insert_call, output_node, twins


def add_outputs(graph: fx.GraphModule, nodes: Any) -> fx.GraphModule:
    """The graph returns ``(what it returned, values of nodes)``; ``nodes`` are of ``graph``, in lists or tuples."""
    made = copy_graph(graph)
    also_return(made, fx.node.map_arg(nodes, twins(graph, made).__getitem__))
    return finish(made)


def add_features(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph returns ``(what it returned, features)``: what enters the classifier, ``(B, D)``, or None."""
    graph = copy_graph(graph)
    found = features(graph)
    also_return(graph, None if found is None else insert_call(graph, output_node(graph), found.of, found.node))
    return finish(graph)


def add_batch_norm_outputs(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph returns ``(what it returned, outputs)``: those of :func:`normalized_outputs`, in a list."""
    return add_outputs(graph, [output.node for output in normalized_outputs(graph)])


def compare_batch_norm_outputs(graph: fx.GraphModule, compare: Callable[[Tensor, Any], Tensor]) -> fx.GraphModule:
    """The graph takes ``(images, expected)`` and returns ``(what it returned, results)``.

    ``results`` is a list of ``compare(output, expected[k])`` for what the k-th batch norm puts out, done at once: no
    output is kept for it.
    """
    graph = copy_graph(graph)
    outputs = [output.node for output in normalized_outputs(graph)]
    with graph.graph.inserting_after(input_node(graph)):
        expected = graph.graph.placeholder("expected")
    results = []
    for k, output in enumerate(outputs):
        after = output.next
        wanted = insert_call(graph, after, operator.getitem, expected, k)
        results.append(insert_call(graph, after, compare, output, wanted))
    also_return(graph, results)
    return finish(graph)
