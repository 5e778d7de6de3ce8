"""Values and bounds that options and recipes accept. Imports nothing heavy, to keep ``intraq --help`` fast."""

import math
from typing import Literal

Placement = Literal["inputs", "activations", "integer"]
"""Which activations are quantized: the input of every layer, the output of every ReLU-like activation, or all that an
integer runtime needs quantized."""
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]
LARGEST_SEED = 2**63 - 1
"""PyTorch's generators accept no larger seed."""
MAX_SIDE = 2048
"""Largest image side in pixels; timm's largest input has 1024."""
MAX_VALUES = 2**24
"""Largest number of values in one image: channels by height by width."""
LARGEST_SIZE = f"at most {MAX_SIDE} pixels per side and {MAX_VALUES:,} values in all"
"""Limits of an input, for messages."""


def is_too_large(size: tuple[int, int, int]) -> bool:
    """Whether an image of (C, H, W) is too large."""
    return max(size[1:]) > MAX_SIDE or math.prod(size) > MAX_VALUES
