"""Calls that return their input unchanged: an addition of zero, a conversion to the same type."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from intraq_cli.graph.nodes import arguments

aten = torch.ops.aten

Given = dict[str, Any]

UNTOUCHED = (
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default,
    aten.alias.default, aten.lift_fresh_copy.default,
)  # fmt: skip
"""Calls that return their input tensor itself in evaluation mode."""


def handed_on(node: fx.Node) -> fx.Node | None:
    """Return the input node whose value a call of the exported graph returns unchanged; None for other calls."""
    holds = IDENTITIES.get(node.target)
    if holds is None or not holds(given := arguments(node)):
        return None
    source = given["tensors"][0] if "tensors" in given else next(iter(given.values()))
    return source if isinstance(source, fx.Node) and _kind(source) == _kind(node) else None


def _kind(node: fx.Node) -> tuple[str, torch.dtype]:
    value = node.meta["val"]
    return str(tuple(value.shape)), value.dtype


def _is(given: Given, argument: str, number: int) -> bool:
    return not isinstance(given[argument], fx.Node) and bool(given[argument] == number)


def _single_values(given: Given) -> bool:
    sides = [*given["kernel_size"], *(given["stride"] or [1])]
    return all(side == 1 for side in sides) and not given.get("divisor_override")


IDENTITIES: Mapping[Any, Callable[[Given], bool]] = {
    **dict.fromkeys(UNTOUCHED, lambda given: not given.get("train", False)),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), lambda given: _is(given, "other", 0)),
    **dict.fromkeys((aten.mul.Tensor, aten.div.Tensor), lambda given: _is(given, "other", 1)),
    aten.pow.Tensor_Scalar: lambda given: _is(given, "exponent", 1),
    **dict.fromkeys(
        (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default,
         aten.type_as.default, aten.view_as.default, aten.detach.default, aten.positive.default,
         aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
        lambda given: True),
    aten.cat.default: lambda given: len(given["tensors"]) == 1,
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), _single_values),
    **dict.fromkeys(
        (aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec),
        lambda given: all(factor == 1 for factor in given["scale_factors"] or ())),
}  # fmt: skip
"""Operation to the condition on its arguments under which it is an identity, if shape and type stay the same."""
