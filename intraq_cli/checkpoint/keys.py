"""Names of the tensors in ``model.safetensors``."""

from collections.abc import Collection
from typing import NamedTuple

from intraq_cli.quantization.plan import Plan

PACKED = "_packed"
"""Suffix for the codes of a quantized weight, after the weight's key."""
FLOAT = "_float"
"""Suffix for a tensor of the network itself whose key equals that of a quantizer's tensor."""
SUFFIX = {"inputs": ".input", "activations": ".output", "integer": ""}
"""Suffix for an activation quantizer's tensors, after the name of its site."""


class GridKeys(NamedTuple):
    """Keys of an activation quantizer's tensors."""

    scale: str
    zero_point: str


class WeightKeys(NamedTuple):
    """Keys of a quantized weight's tensors."""

    packed: str
    scale: str
    zero_point: str
    shape: str


def grid_keys(prefix: str) -> GridKeys:
    """Return the keys of the activation quantizer with the given ``prefix``, see :func:`site_prefix`."""
    return GridKeys(f"{prefix}_scale", f"{prefix}_zero_point")


def weight_keys(key: str) -> WeightKeys:
    """Return the keys that replace that of the float weight ``key``."""
    return WeightKeys(f"{key}{PACKED}", *grid_keys(key), f"{key}_shape")


def site_prefix(plan: Plan, site: str) -> str:
    """Return the prefix of the keys of an activation quantizer's tensors."""
    return f"{site}{SUFFIX[plan.placement]}".lstrip(".")  # a call in the root module's forward has an empty name


def float_names(keys: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Return the names of the network's own tensors in a checkpoint: their keys, with a suffix if those are ``taken``.

    For example, a layer may itself have a parameter ``weight_scale`` or ``input_scale``.

    Args:
        keys: keys of the tensors in the network's state dict.
        taken: names of the quantizers' tensors.
    """
    names = dict(zip(keys, keys, strict=True))
    for key in sorted({*keys} & {*taken}):
        while names[key] in {*taken, *(name for other, name in names.items() if other != key)}:
            names[key] += FLOAT
    return names
