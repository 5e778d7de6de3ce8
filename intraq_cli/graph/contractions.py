"""Sums of products with a constant (matrix products, ``einsum``), rewritten as linear layers."""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from intraq_cli.graph.nodes import argument_node, arguments, insert_call

aten = torch.ops.aten

LETTERS = string.ascii_letters
"""Names of dimensions."""


@dataclass(frozen=True)
class Contraction:
    """A sum of products of two tensors in ``einsum`` notation, with one letter per dimension."""

    operands: tuple[fx.Node, fx.Node]
    letters: tuple[str, str]
    out: str
    bias: fx.Node | None = None
    """Added to the result."""


def linear_where_constant(graph: fx.GraphModule, node: fx.Node, constant: set[fx.Node]) -> None:
    """Rewrite a product of an activation and a constant (``x @ W``, ``W @ x``, ``einsum``) as a linear layer.

    Products that are not linear layers are left unchanged: if both operands share a dimension that is not summed over,
    or if no dimension of the result comes from the constant alone.

    Args:
        graph: changed in place.
        node: a call of one of :data:`CONTRACTIONS`.
        constant: nodes whose value does not depend on the image; added to.
    """
    found = CONTRACTIONS[node.target](node)
    if found is None:
        return
    found = _unrepeated(graph, node, found, constant)
    if sum(operand in constant for operand in found.operands) != 1:
        return
    k = int(found.operands[1] in constant)
    x, weight = found.operands[1 - k], found.operands[k]
    ours, own = found.letters[1 - k], found.letters[k]
    summed = [one for one in own if one in ours and one not in found.out]
    outputs = [one for one in own if one not in ours]
    kept = [one for one in ours if one not in own]
    alone = len({*ours}) == len(ours) and len({*own}) == len(own)
    if not (alone and summed and outputs and sorted([*kept, *outputs]) == sorted(found.out)):
        return
    sizes = dict(zip(own, weight.meta["val"].shape, strict=True))
    read = dict(zip(ours, x.meta["val"].shape, strict=True))
    if any(not isinstance(read[one], int) or read[one] != sizes[one] for one in summed):  # einsum broadcasts size 1
        return
    if found.bias is not None and (
        found.out[-1] != outputs[0] or tuple(found.bias.meta["val"].shape) != (sizes[outputs[0]],)
    ):
        return
    x = _reordered(graph, node, x, ours, [*kept, *summed])
    if len(summed) > 1:
        x = insert_call(graph, node, aten.flatten.using_ints, x, len(kept), -1)
    weight = _reordered(graph, node, weight, own, [*outputs, *summed])
    if len(own) > 2:
        shape = [math.prod(sizes[one] for one in group) for group in (outputs, summed)]
        weight = insert_call(graph, node, aten.reshape.default, weight, shape)
    made = insert_call(graph, node, aten.linear.default, x, weight, found.bias)
    if len(outputs) > 1:
        made = insert_call(graph, node, aten.unflatten.int, made, -1, [sizes[one] for one in outputs])
    made = _reordered(graph, node, made, [*kept, *outputs], found.out)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)


def _unrepeated(graph: fx.GraphModule, node: fx.Node, found: Contraction, constant: set[fx.Node]) -> Contraction:
    """Replace operands that repeat a constant for each image by the constant itself, which is added to ``constant``."""
    operands, letters = list(found.operands), list(found.letters)
    for k, operand in enumerate(found.operands):
        if not _repeats_for_images(operand) or (source := argument_node(operand)) not in constant:
            continue
        if _rank(source) == _rank(operand):
            held = source.meta["val"]
            source = insert_call(graph, node, aten.select.int, source, 0, 0)
            source.meta["val"] = held[0]
        constant.add(source)
        operands[k], letters[k] = source, letters[k][1:]
    return replace(found, operands=(operands[0], operands[1]), letters=(letters[0], letters[1]))


def _repeats_for_images(node: fx.Node) -> bool:
    """Whether a call only repeats a tensor along a first dimension whose size depends on the batch."""
    if node.target not in (aten.expand.default, aten.repeat.default):
        return False
    given, made = argument_node(node).meta["val"].shape, node.meta["val"].shape
    more = len(made) - len(given)
    same = tuple(given[1 - more :]) == tuple(made[1:])
    return same and not isinstance(made[0], int) and (more == 1 or (more == 0 and given[0] == 1))


def _reordered(
    graph: fx.GraphModule, before: fx.Node, node: fx.Node, held: Sequence[str], wanted: Sequence[str]
) -> fx.Node:
    """Permute the dimensions of ``node`` from the letters ``held`` to the order ``wanted``."""
    order = [list(held).index(one) for one in wanted]
    return node if order == sorted(order) else insert_call(graph, before, aten.permute.default, node, order)


def _matrix_product(node: fx.Node) -> Contraction | None:
    """Describe ``x @ y`` or ``bias + x @ y``; a vector has one dimension less."""
    given = arguments(node)
    if any(given.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    adding = int(node.target is aten.addmm.default)
    first, second = argument_node(node, adding), argument_node(node, 1 + adding)
    ranks = [_rank(first), _rank(second)]
    batch = LETTERS[: max(0, *(rank - 2 for rank in ranks))]
    rows, columns = "Y" * (ranks[0] > 1), "Z" * (ranks[1] > 1)
    own = [batch[len(batch) - max(0, rank - 2) :] for rank in ranks]
    letters = (own[0] + rows + "X", own[1] + "X" + columns)
    return Contraction((first, second), letters, batch + rows + columns, argument_node(node) if adding else None)


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _einsum(node: fx.Node) -> Contraction | None:
    """Describe an ``einsum`` of two operands; ``...`` stands for the dimensions of an operand that are not named."""
    given = arguments(node)
    operands = given["tensors"]
    if len(operands) != 2:
        return None
    terms, arrow, out = str(given["equation"]).replace(" ", "").partition("->")
    named = terms.split(",")
    more = [_rank(operand) - len(term.replace("...", "")) for operand, term in zip(operands, named, strict=True)]
    unused = [one for one in LETTERS if one not in terms][: max(more)]
    ends = ["".join(unused[len(unused) - n :]) for n in more]
    first, second = (term.replace("...", end) for term, end in zip(named, ends, strict=True))
    once = "".join(sorted(one for one in {*first, *second} - {*unused} if (first + second).count(one) == 1))
    out = out.replace("...", "".join(unused)) if arrow else "".join(unused) + once
    return Contraction((operands[0], operands[1]), (first, second), out)


def _inner(node: fx.Node) -> Contraction:
    """Describe ``inner``, which sums over the last dimension of both operands."""
    first, second = argument_node(node), argument_node(node, 1)
    letters = (LETTERS[: _rank(first) - 1], LETTERS[_rank(first) - 1 :][: _rank(second) - 1])
    return Contraction((first, second), (letters[0] + "Z", letters[1] + "Z"), "".join(letters))


def _tensordot(node: fx.Node) -> Contraction:
    given = arguments(node)
    first, second = given["self"], given["other"]
    one, other = list(LETTERS[: _rank(first)]), list(LETTERS[_rank(first) :][: _rank(second)])
    for k, m in zip(given["dims_self"], given["dims_other"], strict=True):
        other[m] = one[k]
    out = [letter for letter in [*one, *other] if [*one, *other].count(letter) == 1]
    return Contraction((first, second), ("".join(one), "".join(other)), "".join(out))


CONTRACTIONS: Mapping[Any, Callable[[fx.Node], Contraction | None]] = {
    aten.matmul.default: _matrix_product,
    aten.mm.default: _matrix_product,
    aten.bmm.default: _matrix_product,
    aten.addmm.default: _matrix_product,
    aten.einsum.default: _einsum,
    aten.inner.default: _inner,
    aten.tensordot.default: _tensordot,
}
