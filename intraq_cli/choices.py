"""Words that options and recipes take. ``intraq --help`` imports this module, so it imports nothing heavy."""

from typing import Literal

Placement = Literal["inputs", "activations", "integer"]
"""Which activations are quantized: the input of every layer, the output of every ReLU-like activation, or all that an
integer runtime needs."""
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]
LARGEST_SEED = 2**63 - 1
"""Torch's generators take no larger ones."""
