"""Pass: the form that integer runtimes run: batch norms folded into layers, SiLU as a sigmoid and a product."""

import torch
from torch import fx, nn

from intraq_cli.graph.batch_norms import FOLDED, BatchNorm, Parameters, batch_norms, normalized_output
from intraq_cli.graph.fold import CONVOLUTIONS, folded_weight_and_bias
from intraq_cli.graph.layers import Layer, quantizable
from intraq_cli.graph.nodes import (
    arguments,
    calls,
    constant_value,
    copy_graph,
    finish,
    insert_call,
    insert_tensor,
    key_of,
    replace_call,
    sources,
)

aten = torch.ops.aten


@torch.no_grad()
def integer_form(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: fold batch norms permanently and split SiLU; the function stays the same up to rounding.

    A batch norm is folded into the convolution before it if nothing else reads the convolution's output, and if all
    calls of the convolution go into the same batch norm. The convolution's call then records the statistics of the
    output, see :func:`intraq_cli.graph.batch_norms.folded_outputs`. Other batch norms stay.
    """
    graph = copy_graph(graph)
    for node in calls(graph, aten.silu.default):
        gate = insert_call(graph, node, aten.sigmoid.default, node.args[0])
        replace_call(graph, node, aten.mul.Tensor, node.args[0], gate)
    readers = {norm.x: norm for norm in batch_norms(graph)}
    for layer in quantizable(graph):
        norms = [readers.get(call) for call in layer.calls]
        if _can_be_folded(layer, norms):
            _fold(graph, layer, [norm for norm in norms if norm is not None])
    return finish(graph)


def _can_be_folded(layer: Layer, norms: list[BatchNorm | None]) -> bool:
    if not all(norm is not None and len(norm.x.users) == 1 and norm.x.target in CONVOLUTIONS for norm in norms):
        return False
    biases = {arguments(call)["bias"] for call in layer.calls}
    tensors = {norm.nodes for norm in norms if norm is not None}
    return len(biases) == len(tensors) == 1


def _fold(graph: fx.GraphModule, layer: Layer, norms: list[BatchNorm]) -> None:
    first = layer.calls[0]
    held: Parameters = norms[0].tensors(graph)
    bias = arguments(first)["bias"]
    weight, own = constant_value(graph, layer.weight), None if bias is None else constant_value(graph, bias)
    folded = folded_weight_and_bias(weight, own, *held)
    nodes = []
    for name, tensor in zip(("weight", "bias"), folded, strict=True):
        key = _free_key(graph, layer, name, bias)
        nodes.append(insert_tensor(graph, first, key, nn.Parameter(tensor.contiguous(), requires_grad=False)))
    for call, norm in zip(layer.calls, norms, strict=True):
        out = replace_call(graph, norm.node, call.target, call.args[0], *nodes, *call.args[3:])
        output = normalized_output(norm.name, out, held)
        out.meta = {**call.meta, FOLDED: output}
        graph.graph.erase_node(call)


def _free_key(graph: fx.GraphModule, layer: Layer, name: str, bias: fx.Node | None) -> str:
    """Return the key of a layer's new tensor: the layer's name plus ``name``, unless another tensor has that key."""
    own = {*layer.calls, layer.weight, *sources(layer.weight), *([] if bias is None else [bias])}
    others = {key_of(n) for n in graph.graph.nodes if n.op == "get_attr" and any(user not in own for user in n.users)}
    key = f"{layer.name}.{name}"
    while key in others:
        key += "_folded"
    return key
