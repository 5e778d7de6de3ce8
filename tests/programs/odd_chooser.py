"""Draws parts of a network at random, and makes modules of functions."""

import random
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], **kept: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in kept.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Chooser:
    """Draws parts of a network at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.used: list[str] = []

    def one(self, parts: dict[str, Callable[[], Any]]) -> Any:
        """Draw one of the parts and record its name."""
        name = self.random.choice(sorted(parts))
        self.used.append(name)
        return parts[name]()
