"""Normalisation of the graph that ``torch.export`` captures to the form that passes expect.

Operations are out-of-place, equal calls are merged, every tensor is named by its first key in the network's state
dict, and convolutions, linear layers and batch norms have one form each.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator, OpOverload

from intraq_cli.errors import ModelError
from intraq_cli.graph.canonical_calls import canonical_calls
from intraq_cli.graph.identities import UNTOUCHED
from intraq_cli.graph.nodes import (
    NETWORK,
    argument_node,
    calls,
    finish,
    input_node,
    is_random,
    named_tensors,
    tensor_of,
)

aten = torch.ops.aten

CHECKS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
"""Assertions about types and sizes; they would fail in other precisions."""
SETTINGS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Number of settings among a call's arguments, before the inner graph and that graph's inputs; autocast's are device,
type, whether it is enabled, and whether it caches."""


def normalize(exported: torch.export.ExportedProgram, network: nn.Module) -> fx.GraphModule:
    """Return the graph of an exported ``network`` in the form that :mod:`intraq_cli.graph` describes.

    Raises:
        ModelError: part of it has no such form.
    """
    graph = exported.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    _inline_modes(graph)
    if not _out_of_place(graph):
        graph = exported.run_decompositions({}).module(check_guards=False)  # slow, but handles writes through views
        assert isinstance(graph, fx.GraphModule)
        _inline_modes(graph)
        if not _out_of_place(graph):
            raise ModelError(
                "the network changes its own tensors as it runs", "make its results independent of earlier images"
            )
    _drop_checks(graph)
    graph = _with_own_tensors(graph, network)
    canonical_calls(graph)
    _compute_once(graph)
    _follow_input_device(graph)
    for node in graph.graph.nodes:
        node.meta = {"path": _path(node), "stack_trace": node.meta.get("stack_trace")}
    return finish(graph)


def _path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).partition("@")[0] if stack else ""


def _inline_modes(graph: fx.GraphModule) -> None:
    """Inline what runs under ``torch.no_grad()`` or with autocast disabled; refuse branches and loops."""
    for node in calls(graph):
        if getattr(node.target, "__module__", None) == "torch._functorch.predispatch":
            raise ModelError(
                "the network cannot be captured as a graph: it uses torch.vmap", "give the network without it"
            )
        if not isinstance(node.target, HigherOrderOperator):
            continue
        name, settings = node.target.name(), SETTINGS.get(node.target.name())
        if settings is None or (name == "wrap_with_autocast" and node.args[2]):
            reason = f"it uses torch's {name}" if settings is None else "it uses torch.autocast inside"
            raise ModelError(f"the network cannot be captured as a graph: {reason}", "give the network without it")
        held = argument_node(node, settings)
        inner = getattr(graph, str(held.target))
        _inline_modes(inner)
        inputs = inner.graph.find_nodes(op="placeholder")
        with graph.graph.inserting_before(node):
            made = graph.graph.graph_copy(inner.graph, dict(zip(inputs, node.args[settings + 1 :], strict=True)))  # type: ignore[arg-type]
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(made[user.args[1]])  # type: ignore[index, arg-type]
            graph.graph.erase_node(user)
        graph.graph.erase_node(node)
        if not held.users:
            graph.graph.erase_node(held)


def _is_view(node: fx.Node) -> bool:
    """Whether a call's output may share memory with its input."""
    if not isinstance(node.target, OpOverload):
        return node.target is operator.getitem
    if node.target in UNTOUCHED:
        return True
    made = node.target._schema.returns
    return any(one.alias_info is not None and not one.alias_info.is_write for one in made)


def _views(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that may share memory with ``node``: its views, and views of these."""
    for user in node.users:
        if _is_view(user):
            yield user
            yield from _views(user)


def _out_of_place(graph: fx.GraphModule) -> bool:
    """Make in-place calls out-of-place; return False if one writes to memory that is read through a view."""
    for node in calls(graph):  # in execution order
        if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
            continue
        written = node.args[0] if node.args else None
        name = node.target._schema.name.removeprefix("aten::")
        packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
        overload = getattr(packet, node.target._overloadname, None)
        if overload is None or not isinstance(written, fx.Node) or written.op == "get_attr" or _is_view(written):
            return False
        earlier = [view for view in _views(written) if view < node]
        if any(reader > node for view in earlier for reader in view.users):
            return False
        node.target = overload
        for user in [user for user in written.users if user > node]:
            user.replace_input_with(written, node)
    return True


def _drop_checks(graph: fx.GraphModule) -> None:
    for node in reversed(list(graph.graph.nodes)):
        if node.target in CHECKS or (node.op == "call_module" and not node.users):
            graph.graph.erase_node(node)


def _with_own_tensors(graph: fx.GraphModule, network: nn.Module) -> fx.GraphModule:
    """Return the same nodes, reading the tensors of ``network`` itself, each by its first key."""
    named = named_tensors(network)
    first: dict[int, str] = {}
    for key, held_tensor in named.items():
        first.setdefault(id(held_tensor), key)
    held: dict[str, Any] = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        key = str(node.target)
        tensor: Tensor | None = named[key] if key in named else tensor_of(graph, node)
        if tensor is None:
            raise ModelError(f"the network cannot be captured as a graph: {key} is not a tensor")
        key = first.get(id(tensor), key)
        node.target = f"{NETWORK}{key}"
        held[node.target] = tensor
    end = graph.graph.output_node()
    end.args = end.args[0]  # type: ignore[assignment]  # the logits alone, not wrapped as forward returned them
    graph.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(held, graph.graph)


def _compute_once(graph: fx.GraphModule) -> None:
    """Merge equal calls: e.g. reads of the same weight, or the same activation at the start of several branches."""
    first: dict[Any, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op not in ("get_attr", "call_function") or is_random(node):
            continue
        same = (node.op, node.target, repr(node.args), repr(node.kwargs))
        if same in first:
            node.replace_all_uses_with(first[same])
            graph.graph.erase_node(node)
        else:
            first[same] = node


def _follow_input_device(graph: fx.GraphModule) -> None:
    """Create tensors that the network makes in its forward pass on the device of its input."""
    making = [node for node in calls(graph) if isinstance(node.kwargs.get("device"), torch.device)]
    if not making:
        return
    x = input_node(graph)
    with graph.graph.inserting_after(x):
        device = graph.graph.call_function(getattr, (x, "device"))
    for node in making:
        node.kwargs = {**node.kwargs, "device": device}
