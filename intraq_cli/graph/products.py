"""Operations that multiply, other than convolutions and linear layers, with their multiply-adds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import (
    argument_node,
    arguments,
    calls,
    constant_nodes,
    key_of,
    names_of_calls,
    numel,
    sources,
    tensor_of,
)
from intraq_cli.graph.written_out import is_spread, is_tap

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """An operation that multiplies and is not one of :data:`LAYERS`: it stays float."""

    name: str
    kind: str
    node: fx.Node
    reason: str
    shape: tuple[int, ...]
    """Shape of its weights; empty if it multiplies only activations."""
    parameters: int
    multiply_adds: int
    """Multiply-adds for one image."""


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["shape"])


ADDING = (aten.addmm.default, aten.baddbmm.default, aten.addmv.default, aten.addbmm.default, aten.addr.default)
"""Products that add their first argument to the result."""


def _matrix(node: fx.Node, given: dict[str, Any]) -> int:
    first = node.args[1] if node.target in ADDING else node.args[0]
    return numel(node) * int(_shape(first)[-1])


def _einsum(node: fx.Node, given: dict[str, Any]) -> int:
    sizes: dict[Any, int] = {}
    terms = str(given["equation"]).replace(" ", "").partition("->")[0].split(",")
    for term, operand in zip(terms, given["tensors"], strict=True):
        shape = _shape(operand)
        start, _, end = term.partition("...")
        rest = shape[len(start) : len(shape) - len(end)]
        named = [*start, *(("...", k - len(rest)) for k in range(len(rest))), *end]
        for label, size in zip(named, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _attention(node: fx.Node, given: dict[str, Any]) -> int:
    query, key, value = (_shape(given[name]) for name in ("query", "key", "value"))
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: fx.Node, given: dict[str, Any]) -> int:
    x = _shape(given["input"])
    weights = sum(numel(p) for p in given["params"] if len(_shape(p)) > 1)
    return weights * math.prod(x[:-1])


def _transposed(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(given["input"]) * math.prod(_shape(given["weight"])[1:])


def _bilinear(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(node) * math.prod(_shape(given["weight"])[1:])


def _cell(node: fx.Node, given: dict[str, Any]) -> int:
    return math.prod(_shape(given["input"])[:-1]) * (numel(given["w_ih"]) + numel(given["w_hh"]))


def _tensordot(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(node) * math.prod(_shape(given["self"])[dim] for dim in given["dims_self"])


def _along_one(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(node) * int(_shape(node.args[0])[given.get("dim", -1)])


def _outer(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(node)


def _of_batches(node: fx.Node, given: dict[str, Any]) -> int:
    return numel(given["batch1"]) * int(_shape(given["batch2"])[-1])


Count = Callable[[fx.Node, dict[str, Any]], int]
PRODUCTS: dict[Any, tuple[str, Count]] = {
    **dict.fromkeys(
        (aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default,
         aten.mv.default, aten.dot.default, aten.vdot.default, aten.inner.default, aten.addmv.default),
        ("matmul", _matrix)),
    aten.addbmm.default: ("matmul", _of_batches),
    aten.tensordot.default: ("tensordot", _tensordot),
    **dict.fromkeys(
        (aten.linalg_vecdot.default, aten.cosine_similarity.default, aten.cdist.default, aten._cdist_forward.default,
         aten.pairwise_distance.default),
        ("distance", _along_one)),
    **dict.fromkeys((aten.outer.default, aten.ger.default, aten.addr.default, aten.kron.default), ("outer", _outer)),
    aten.einsum.default: ("einsum", _einsum),
    aten.scaled_dot_product_attention.default: ("attention", _attention),
    **dict.fromkeys(
        (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), ("recurrent", _recurrent)),
    **dict.fromkeys(
        (aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
        ("recurrent", _cell)),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        ("conv_transpose", _transposed)),
    aten.bilinear.default: ("bilinear", _bilinear),
    **dict.fromkeys(
        (aten.linalg_solve.default, aten.linalg_solve_triangular.default, aten.cholesky_solve.default),
        ("solve", _matrix)),
}  # fmt: skip
SUMS = (aten.sum.dim_IntList, aten.sum.default)
SIZES = (aten.abs.default, aten.square.default, aten.pow.Tensor_Scalar)
NORMS = (aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim)
REASONS = {
    "recurrent": "a recurrent layer",
    "conv_transpose": "a transposed convolution",
    "bilinear": "a bilinear layer",
}


def products(graph: fx.GraphModule) -> list[Product]:
    """Return the operations that multiply, and other libraries' operations with weights, in the order of calls."""
    constant = constant_nodes(graph)
    found = [
        node
        for node in calls(graph)
        if node not in constant and (_multiplies(node, constant) or _is_foreign(node, constant))
    ]
    return [_product(graph, node, name, constant) for node, name in names_of_calls(found).items()]


def _multiplies(node: fx.Node, constant: set[fx.Node]) -> bool:
    return (
        node.target in PRODUCTS
        or _is_summed(node, constant)
        or _is_distance(node, constant)
        or is_spread(node, constant)
        or is_tap(node, constant)
    )


def _is_summed(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call multiplies two tensors elementwise, and the result is only summed or averaged.

    A gate or a scale per channel, averaged over positions, is not such a product: before a mean, the weights must
    differ along the averaged dimensions.
    """
    if node.target is not aten.mul.Tensor or len(node.users) != 1 or len(node.all_input_nodes) != 2:
        return False
    (reader,) = node.users
    if reader.target is not aten.mean.dim:
        return reader.target in SUMS
    return _differs_along(reader, node, constant)


def _is_distance(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call subtracts weights and activations, and only absolute values or powers of the result are summed.

    Although it does not multiply, this is a layer if its weights differ along the summed dimensions (AdderNet).
    """
    if node.target is not aten.sub.Tensor or len(node.all_input_nodes) != 2:
        return False
    held, readers = node, list(node.users)
    while len(readers) == 1 and readers[0].target in SIZES:
        held, readers = readers[0], list(readers[0].users)
    ends = NORMS if held is node else (*NORMS, *SUMS)
    return len(readers) == 1 and readers[0].target in ends and _differs_along(readers[0], node, constant)


def _differs_along(reader: fx.Node, node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call reads weights with more than one value along the dimensions that ``reader`` sums over."""
    weights = [source for source in node.all_input_nodes if source in constant]
    size, along = len(_shape(node)), arguments(reader).get("dim")
    dims = range(size) if along is None else along
    shapes = [(1,) * (size - len(_shape(weight))) + _shape(weight) for weight in weights]
    return any(shape[dim] > 1 for shape in shapes for dim in dims)


def _is_foreign(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a call is an operation with weights that is not torch's own."""
    namespace = getattr(node.target, "namespace", "aten")
    return namespace not in ("aten", "prims", "prim") and any(
        source in constant and len(source.meta.get("shape", ())) > 1 for source in node.all_input_nodes
    )


def _product(graph: fx.GraphModule, node: fx.Node, name: str, constant: set[fx.Node]) -> Product:
    added = argument_node(node) if node.target in ADDING else None
    held = [source for source in node.all_input_nodes if source in constant and source is not added]
    most = max((len(source.meta.get("shape", ())) for source in held), default=0)
    weights = [source for source in held if 0 < len(source.meta.get("shape", ())) >= min(most, 2)]  # vectors: no biases
    shape = max(map(_shape, weights), key=math.prod, default=())
    read = {key_of(s): tensor_of(graph, s) for weight in weights for s in sources(weight)}
    parameters = sum(tensor.numel() for tensor in read.values() if isinstance(tensor, nn.Parameter))
    if not name.partition("#")[0]:  # a call in the network's own forward; layers are named in the same way
        name = f"network{name}"
    if not _multiplies(node, constant):
        kind = str(node.target)
        reason = f"an operation from outside torch ({kind})"
        return Product(name, kind, node, reason, shape, parameters, numel(node) * math.prod(shape[1:]))
    kind, count = PRODUCTS.get(node.target, (_kind(node, constant), _outer))
    reason = REASONS.get(kind) or (
        "a product with weights that is not a convolution or linear layer" if weights else "a product of activations"
    )
    return Product(name, kind, node, reason, shape, parameters, count(node, arguments(node)))


def _kind(node: fx.Node, constant: set[fx.Node]) -> str:
    if node.target is aten.sub.Tensor:
        return "distance"
    return "product and sum" if _is_summed(node, constant) or is_tap(node, constant) else "outer"


def before_layers(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that a layer or another product depends on; all others only lead to the logits."""
    constant = constant_nodes(graph)
    multiplying = {node for node in calls(graph) if node.target in LAYERS or _multiplies(node, constant)}
    found = set[fx.Node]()
    for node in reversed(graph.graph.nodes):
        if any(user in multiplying or user in found for user in node.users):
            found.add(node)
    return found
