"""Canonical calls: an operation that can be written in several ways is rewritten to the one form that passes expect."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from intraq_cli.graph.contractions import CONTRACTIONS, linear_where_constant
from intraq_cli.graph.identities import handed_on
from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import argument_node, arguments, calls, constant_nodes, insert_call, replace_call
from intraq_cli.graph.pooling import POOLING
from intraq_cli.graph.unfused_norms import fuse_batch_norms

aten = torch.ops.aten


def canonical_calls(graph: fx.GraphModule) -> None:
    """Rewrite calls in place to their canonical form."""
    for node in calls(graph):
        form = FORMS.get(node.target)
        if (source := handed_on(node)) is not None:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
        elif form is not None:
            form(graph, node)
    fuse_batch_norms(graph)
    constant = constant_nodes(graph)
    for node in calls(graph):
        if node.target in CONTRACTIONS:
            linear_where_constant(graph, node, constant)
    for node in calls(graph, *LAYERS):
        node.args, node.kwargs = tuple(arguments(node).values()), {}


def _convolution(graph: fx.GraphModule, node: fx.Node) -> None:
    given = arguments(node)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    size = len(given["stride"])
    rest: tuple[Any, ...] = (given["stride"], given["padding"])
    if given["transposed"]:
        forms: tuple[Any, ...] = (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
        target = forms[size - 1].default if size == 1 else forms[size - 1].input
        rest = (*rest, given["output_padding"], given["groups"], given["dilation"])
    else:
        target = (aten.conv1d, aten.conv2d, aten.conv3d)[size - 1].default
        rest = (*rest, given["dilation"], given["groups"])
    replace_call(graph, node, target, x, weight, bias, *rest)


def _batch_norm(graph: fx.GraphModule, node: fx.Node) -> None:
    """Replace a backend of batch norm by ``aten.batch_norm``, which is the backend's first output."""
    given = arguments(node)
    statistics = (given["running_mean"], given["running_var"], given.get("training", False))
    args = (given["input"], given["weight"], given["bias"], *statistics, given["momentum"], given["eps"], True)
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            replace_call(graph, user, aten.batch_norm.default, *args)


def _renamed(target: Any) -> Callable[[fx.GraphModule, fx.Node], fx.Node]:
    return lambda graph, node: replace_call(graph, node, target, *node.args)


def _squeeze(graph: fx.GraphModule, node: fx.Node) -> None:
    # a plain squeeze would also remove the batch dimension of a single image
    shape = argument_node(node).meta["val"].shape
    ones = [k for k, size in enumerate(shape) if isinstance(size, int) and size == 1]
    replace_call(graph, node, aten.squeeze.dims, node.args[0], ones)


def _contiguous_input(graph: fx.GraphModule, node: fx.Node) -> None:
    # the operation depends on the memory layout, which was contiguous during capture
    made = insert_call(graph, node, aten.clone.default, node.args[0])
    made.kwargs = {"memory_format": torch.contiguous_format}
    node.update_arg(0, made)


def _copied(graph: fx.GraphModule, node: fx.Node) -> None:
    # aten.copy stands for a write into part of a tensor; torch has no derivative of it
    into, source = (argument_node(node, k).meta["val"] for k in (0, 1))
    made: Any = node.args[1]
    if source.dtype != into.dtype:
        made = insert_call(graph, node, aten.to.dtype, made, into.dtype)
    if tuple(source.shape) != tuple(into.shape):
        made = insert_call(graph, node, aten.expand_as.default, made, node.args[0])
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)


def _leaky_relu(graph: fx.GraphModule, node: fx.Node) -> None:
    given = arguments(node)
    if not given["training"]:
        replace_call(graph, node, aten.leaky_relu.default, given["self"], (given["lower"] + given["upper"]) / 2)


FORMS: Mapping[Any, Callable[[fx.GraphModule, fx.Node], Any]] = {
    aten._convolution.default: _convolution,
    aten.convolution.default: _convolution,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.copy.default: _copied,
    aten.rrelu.default: _leaky_relu,
    aten.linalg_matmul.default: _renamed(aten.matmul.default),
    # a view was captured on contiguous memory; a reshape does the same in any layout
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default), _renamed(aten.reshape.default)),
    aten.squeeze.default: _squeeze,
    aten.view_as_complex.default: _contiguous_input,
    aten.view.dtype: _contiguous_input,
    aten.as_strided.default: _contiguous_input,
    **POOLING,
}
