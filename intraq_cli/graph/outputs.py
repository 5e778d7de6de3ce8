"""Passes that make a graph return more than its logits."""

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from intraq_cli.graph.batch_norms import normalized_outputs
from intraq_cli.graph.layers import features
from intraq_cli.graph.nodes import also_return, copy_graph, finish, input_node, insert_call, twins


def add_outputs(graph: fx.GraphModule, nodes: Any) -> fx.GraphModule:
    """Pass: return ``(previous output, values of nodes)``; ``nodes`` are of ``graph``, in lists or tuples."""
    made = copy_graph(graph)
    also_return(made, fx.node.map_arg(nodes, twins(graph, made).__getitem__))
    return finish(made)


def add_features(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: return ``(previous output, features)``: also the classifier's input ``(B, D)``."""
    graph = copy_graph(graph)
    found = features(graph)
    also_return(graph, insert_call(graph, graph.graph.output_node(), found.of, found.node))
    return finish(graph)


def add_batch_norm_outputs(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: return ``(previous output, outputs)``: also a list of the :func:`normalized_outputs`."""
    return add_outputs(graph, [output.node for output in normalized_outputs(graph)])


def compare_batch_norm_outputs(graph: fx.GraphModule, compare: Callable[[Tensor, Any], Tensor]) -> fx.GraphModule:
    """Pass: take ``(images, expected)`` and return ``(previous output, results)``.

    ``results`` is a list of ``compare(output, expected[k])`` for the k-th batch norm's output. Each is computed right
    after the output, so that no output has to be kept for it.
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
