"""What the tensors of ``model.safetensors`` are called."""

from collections.abc import Collection
from typing import NamedTuple

from intraq_cli.quantization.plan import Plan

PACKED = "_packed"
"""Behind the key of a quantized weight: its codes."""
FLOAT = "_float"
"""Behind the key of a tensor of the network's own that is called as one of a quantizer's."""
SUFFIX = {"inputs": ".input", "activations": ".output", "integer": ""}
"""What an activation's tensors are called behind the name of its site."""


class GridKeys(NamedTuple):
    """Of an activation quantizer."""

    scale: str
    zero_point: str


class WeightKeys(NamedTuple):
    """Of a quantized weight."""

    packed: str
    scale: str
    zero_point: str
    shape: str


def grid_keys(prefix: str) -> GridKeys:
    """Of the activation quantizer whose tensors are called ``prefix``, see :func:`site_prefix`."""
    return GridKeys(f"{prefix}_scale", f"{prefix}_zero_point")


def weight_keys(key: str) -> WeightKeys:
    """In place of the float weight ``key``."""
    return WeightKeys(f"{key}{PACKED}", *grid_keys(key), f"{key}_shape")


def site_prefix(plan: Plan, site: str) -> str:
    """What the keys of an activation quantizer's tensors begin with."""
    return f"{site}{SUFFIX[plan.placement]}".lstrip(".")  # a call in the network's own forward has an empty name


def float_names(keys: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """What the network's own tensors are called in a checkpoint: by their keys, but where those are ``taken``.

    A layer may have a parameter ``weight_scale`` or ``input_scale`` of its own.

    Args:
        keys: of the tensors, in the network's state dict.
        taken: names of what quantizers store.
    """
    names = dict(zip(keys, keys, strict=True))
    for key in sorted({*keys} & {*taken}):
        while names[key] in {*taken, *(name for other, name in names.items() if other != key)}:
            names[key] += FLOAT
    return names
