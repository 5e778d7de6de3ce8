"""Activation ranges as published: moving averages of the minimum and maximum of training batches."""

from collections.abc import Iterable

import torch
from torch import Tensor

from intraq_cli.quantization.affine import grid_of_range
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.recipe import Quantization


@torch.no_grad()
def warm_up(student: QuantizedNetwork, batches: Iterable[Tensor], config: Quantization) -> None:
    """Set the activation ranges as published: moving averages over ``batches`` of images ``(B, C, H, W)``.

    Meanwhile the network runs with quantized weights, and with activations quantized by the ranges so far.
    """
    pairs = [(one, EmaObserver(one.top, config.ema_beta)) for one in student.activation_quantizers.values()]
    try:
        for quantizer, observer in pairs:
            quantizer.observer = observer.observe
        for batch in batches:
            student(batch)
    finally:
        for quantizer, _ in pairs:
            quantizer.observer = None
    for quantizer, observer in pairs:
        quantizer.set_grid(*observer.grid())
        quantizer.scale.learn(config.activation_scale == "learned")


class EmaObserver:
    """Moving averages of batch minimum and maximum, with Adam's correction of the initial bias.

    The published code divides by ``1 - beta^t`` inside the recursion, so it corrects corrected values; this does not.
    """

    def __init__(self, top: int, beta: float) -> None:
        self.top, self.beta = top, beta
        self.steps = 0
        self.low: Tensor | float = 0.0
        self.high: Tensor | float = 0.0

    def observe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Update the averages with a batch, and return the grid of the range so far."""
        self.steps += 1
        self.low = self.beta * self.low + (1 - self.beta) * x.detach().amin()
        self.high = self.beta * self.high + (1 - self.beta) * x.detach().amax()
        return self.grid()

    def grid(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero-point, ``()`` each."""
        weight = 1 - self.beta**self.steps
        return grid_of_range(torch.as_tensor(self.low) / weight, torch.as_tensor(self.high) / weight, self.top)
