"""Batch norms that a network computes itself, from multiplications and additions, become calls of ``aten.batch_norm``.

Examples are ``FrozenBatchNorm2d`` of torchvision and timm, its copies in other libraries, and batch norms of textbooks.
"""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.graph.nodes import (
    calls,
    constant_nodes,
    constant_value,
    insert_call,
    needed,
    replace_call,
    sources,
    tensor_of,
)

aten = torch.ops.aten

ROOTS = (aten.sqrt.default, aten.rsqrt.default, aten.pow.Tensor_Scalar)
ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
SAME = 1e-9
"""Relative tolerance between two formulas in float64; another ``eps`` changes a batch norm by more."""


def fuse_batch_norms(graph: fx.GraphModule) -> None:
    """Replace, in place, arithmetic that equals a batch norm with stored statistics by ``aten.batch_norm``."""
    constant = constant_nodes(graph)
    for root in calls(graph, *ROOTS):
        if root in constant and len(sources(root)) == 1:
            for x, out in _formulas(graph, root, constant):
                if (args := _arguments(graph, root, x, out)) is not None:
                    shaped = [_vector(graph, out, arg) if isinstance(arg, fx.Node) else arg for arg in args]
                    replace_call(graph, out, aten.batch_norm.default, x, *shaped)
                    break


def _formulas(graph: fx.GraphModule, root: fx.Node, constant: set[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield input and output of arithmetic with one activation and ``root``, a deviation or its inverse, longest first.

    Each input is tried with the value before it too: ``x - mean`` precedes the division by the deviation.
    """
    within, inputs = {root}, set[fx.Node]()
    for node in calls(graph):
        read = set(node.all_input_nodes)
        others = read - within - constant
        if read & within and (node in constant or (node.target in ARITHMETIC and len(inputs | others) == 1)):
            within.add(node)
            inputs |= others
    for out in sorted(within - constant, reverse=True):
        for x in inputs:
            yield from ((before, out) for before in x.all_input_nodes if x.target in ARITHMETIC)
            yield x, out


def _arguments(graph: fx.GraphModule, root: fx.Node, x: fx.Node, out: fx.Node) -> list[Any] | None:
    """Return the arguments, after the input, of the batch norm of ``x`` that ``out`` is; None if it is none.

    The stored tensors' roles are those with which both give the same for random values.
    """
    shape: Any = x.meta["val"].shape if isinstance(x.meta.get("val"), Tensor) else ()
    read = needed(out, x)
    if len(shape) != 4 or any(node.op == "placeholder" for node in read):
        return None
    values: dict[fx.Node, Any] = {}
    random = torch.Generator().manual_seed(0)
    held = [node for node in read if node.op == "get_attr"]
    for node in held:
        tensor = tensor_of(graph, node)
        if tensor is None or tensor.numel() != shape[1]:
            return None
        values[node] = 0.5 + torch.rand(tensor.shape, generator=random, dtype=torch.float64)
    values[x] = torch.rand(2, int(shape[1]), 1, 1, generator=random, dtype=torch.float64)
    wanted = constant_value(graph, out, values)
    (var,) = sources(root)
    under_root = [node for node in needed(root, var) if node is not root]
    eps = sum(number for node in under_root for number in node.args if isinstance(number, float))
    others = [node for node in held if node is not var]
    for mean, weight, bias in permutations([*others, None, None], 3):
        roles = [weight, bias, mean, var]
        if mean is not None and set(held) <= set(roles):
            weight_, bias_, mean_, var_ = (None if node is None else values[node].flatten() for node in roles)
            got = F.batch_norm(values[x], mean_, var_, weight_, bias_, eps=eps)
            if wanted.shape == got.shape and torch.allclose(got, wanted, rtol=SAME, atol=SAME):
                return [*roles, False, 0.1, eps, True]
    return None


def _vector(graph: fx.GraphModule, before: fx.Node, held: fx.Node) -> fx.Node:
    """Return a node for a stored tensor as ``(C,)``."""
    tensor = tensor_of(graph, held)
    assert tensor is not None
    return held if tensor.dim() == 1 else insert_call(graph, before, aten.reshape.default, held, [-1])
