"""Words and bounds that options and recipes take; nothing heavy is imported here, for ``intraq --help``."""

import math
from typing import Literal

Placement = Literal["inputs", "activations", "integer"]
"""Which activations are quantized: the input of every layer, the output of every ReLU-like activation, or all that an
integer runtime needs."""
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]
LARGEST_SEED = 2**63 - 1
"""Torch's generators take no larger ones."""
MAX_SIDE = 2048
"""Pixels; timm's largest input has 1024."""
MAX_VALUES = 2**24
"""Of one image: channels by height by width."""


def is_too_large(size: tuple[int, int, int]) -> bool:
    """Whether no image of (C, H, W) is taken."""
    return max(size[1:]) > MAX_SIDE or math.prod(size) > MAX_VALUES
