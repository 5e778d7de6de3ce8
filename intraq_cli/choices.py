"""Words that options and recipes take. ``intraq --help`` imports this module, so it imports nothing heavy."""

from typing import Literal

Placement = Literal["inputs", "activations"]
"""Which activations are quantized: the input of every layer, or the output of every ReLU-like activation."""
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]
