"""Quantizers: one for a layer's weight, one for a tensor on its way through the network."""

import torch
from torch import Tensor, nn

from intraq_cli.quantization.affine import fake_quantize, grid_of_range, mse_grid
from intraq_cli.quantization.rounding import round_balanced, round_by_curvature
from intraq_cli.recipe import Quantization


class WeightQuantizer(nn.Module):
    """Per output channel, asymmetric: holds the latent float weight ``(out, ...)`` and yields the quantized one.

    With learned scales, ``latent`` is the weight in units of each channel's first quantization step: an optimizer whose
    steps have a size of their own (Adam) then moves every channel of every layer by as much as its grid is coarse.
    With refreshed ones it is the weight itself, as published.

    Args:
        weight: ``(out, ...)``.
        bits: 2 to 8.
        config: the recipe's quantization section.
        moments: of the layer's inputs, ``(G, d, d)``, for rounding by curvature; without them it is balanced.
    """

    zero_point: Tensor
    unit: Tensor

    def __init__(self, weight: Tensor, bits: int, config: Quantization, moments: Tensor | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.refreshed = config.weight_scale == "refreshed"
        self.range = config.weight_range
        self.per_row = (-1,) + (1,) * (weight.dim() - 1)
        self.log_scale: nn.Parameter | None = None
        self.register_buffer("unit", weight.new_ones(()))
        self.latent = nn.Parameter(weight.detach().clone())
        if not self.refreshed:
            scale, zero_point = self._grid_of_weight()
            self.log_scale = nn.Parameter(scale.log())
            self.register_buffer("zero_point", zero_point)
            self.unit = scale.view(self.per_row)
            self.latent = nn.Parameter(self._rounded(self.latent.detach() / self.unit, config, moments))

    def _rounded(self, latent: Tensor, config: Quantization, moments: Tensor | None) -> Tensor:
        """What tuning starts from, in steps: the weight itself, or whole numbers where they were chosen with care.

        A weight that starts close to a border crosses it by chance, and undoes what rounding has balanced.
        """
        low, high = -self.zero_point, 2**self.bits - 1 - self.zero_point
        if config.weight_rounding == "nearest":
            return latent
        if moments is None:
            return round_balanced(latent, low, high)
        groups = len(moments)
        grouped = latent.reshape(groups, -1, moments.shape[1])
        return round_by_curvature(grouped, moments, low.view(groups, -1), high.view(groups, -1)).view_as(latent)

    @property
    def weight(self) -> Tensor:
        """The float weight that is quantized."""
        return self.latent if self.refreshed else self.latent * self.unit

    def _grid_of_weight(self) -> tuple[Tensor, Tensor]:
        rows = self.weight.detach().flatten(1)
        if self.range == "mse":
            return mse_grid(rows, self.bits)
        return grid_of_range(rows.amin(1), rows.amax(1), self.bits)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero-point, ``(out,)`` each."""
        if self.log_scale is None:
            return self._grid_of_weight()
        return self.log_scale.exp(), self.zero_point

    def forward(self) -> Tensor:
        """The quantized weight, of the weight's shape."""
        scale, zero_point = self.grid()
        return fake_quantize(self.weight, scale.view(self.per_row), zero_point.view(self.per_row), self.bits)


class FixedWeight(nn.Module):
    """Holds a weight that is not learned: the float one, or the quantized one when tuning is over.

    Args:
        weight: ``(out, ...)``.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


class ActivationQuantizer(nn.Module):
    """Per tensor, asymmetric; has its grid from calibration on, or from a checkpoint."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observer: EmaObserver | None = None
        self.log_scale: nn.Parameter | None = None
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def set_grid(self, scale: Tensor, zero_point: Tensor) -> None:
        """Set scale and zero-point, both ``()``."""
        self.scale, self.zero_point = scale.detach().clone(), zero_point.detach().clone()

    def learn_scale(self, learn: bool) -> None:
        """Make the scale's logarithm a parameter, or fix the scale at the value that it has."""
        if learn:
            self.log_scale = nn.Parameter(self.scale.log())
        elif self.log_scale is not None:
            self.scale, self.log_scale = self.log_scale.detach().exp(), None

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x`` (any shape)."""
        if self.observer is not None:
            return fake_quantize(x, *self.observer.observe(x), self.bits)
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        return fake_quantize(x, scale, self.zero_point, self.bits)


class EmaObserver:
    """Moving average of batch minimum and maximum, free of the bias of its start (Adam's correction).

    The published code divides by ``1 - beta^t`` inside the recursion, on a value already corrected; this does not.
    """

    def __init__(self, bits: int, beta: float) -> None:
        self.bits, self.beta = bits, beta
        self.steps = 0
        self.low: Tensor | float = 0.0
        self.high: Tensor | float = 0.0

    def observe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Note a batch; the network goes on with the range so far."""
        self.steps += 1
        self.low = self.beta * self.low + (1 - self.beta) * x.detach().amin()
        self.high = self.beta * self.high + (1 - self.beta) * x.detach().amax()
        return self.grid()

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero-point, ``()`` each."""
        weight = 1 - self.beta**self.steps
        return grid_of_range(torch.as_tensor(self.low) / weight, torch.as_tensor(self.high) / weight, self.bits)
