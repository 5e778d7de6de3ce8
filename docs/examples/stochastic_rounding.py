"""A way of rounding weights, in a file of its own: up or down by chance, so that errors have mean zero.

intraq quantize resnet20_digits --set quantization.weight_rounding=docs/examples/stochastic_rounding.py:stochastic
"""

import torch
from torch import Tensor

from intraq_cli import RoundingInput


def stochastic(given: RoundingInput) -> Tensor:
    """Whole numbers of the weight's shape, the same at every run."""
    generator = torch.Generator().manual_seed(0)  # on the CPU, so that a GPU draws the same
    chance = torch.rand(given.weight.shape, generator=generator).to(given.weight)
    per_channel = (-1,) + (1,) * (given.weight.dim() - 1)
    return (given.weight + chance).floor().clamp(given.low.view(per_channel), given.high.view(per_channel))
