"""Quantizers for the weight of a layer and for an activation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from intraq_cli.quantization.affine import fake_quantize, grid_of_range, mse_grid, per_row
from intraq_cli.quantization.rounding import RoundingInput, rounded
from intraq_cli.recipe import Quantization

SCALE = "scale"
"""Name of the submodule of every quantizer that returns its scale; graph nodes that need the scale call it."""


class Scale(nn.Module):
    """The scale of a grid (the distance between neighbouring values): fixed, or learned through its logarithm.

    Args:
        scale: ``(out,)`` or ``()``.
    """

    fixed: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", scale.detach().clone())
        self.log_scale: nn.Parameter | None = None
        self.log_gain: nn.Parameter | None = None

    def learn(self, learn: bool) -> None:
        """Make the logarithm of the scale a parameter, or fix the scale at its current value."""
        if learn:
            self.log_scale = nn.Parameter(self.fixed.log())
        elif self.log_scale is not None:
            self.fixed, self.log_scale = self.log_scale.detach().exp(), None

    def rounding_scale(self) -> Tensor:
        """Return the scale that values are rounded with."""
        return self.fixed if self.log_scale is None else self.log_scale.exp()

    def forward(self) -> Tensor:
        """Return the scale of the quantizer's output values."""
        return self.rounding_scale() if self.log_gain is None else self.rounding_scale() * self.log_gain.exp()


class WeightQuantizer(nn.Module):
    """Holds the latent float weight ``(out, ...)`` and returns it quantized, with one grid per output channel.

    With learned scales, ``latent`` is the weight in units of each channel's initial scale: an optimizer whose step size
    does not depend on the gradient's (Adam) then moves every channel of every layer in proportion to its scale.
    With recomputed scales, ``latent`` is the weight itself, as published.

    Args:
        weight: ``(out, ...)``.
        bits: 2 to 8.
        config: the recipe's quantization section.
        moments: second moments of the layer's inputs, ``(G, d, d)``, for roundings that use them.
        limit: largest absolute value of code minus zero-point, for a symmetric grid; None: asymmetric, all codes.
        least_scale: ``(out,)``, lower bound of the scales.
        learn_gain: learn a factor for each output channel, like a batch norm's gamma; it does not change the codes.
    """

    zero_point: Tensor
    unit: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        config: Quantization,
        moments: Tensor | None = None,
        *,
        limit: int | None = None,
        least_scale: Tensor | None = None,
        learn_gain: bool = False,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric, self.top = limit is not None, 2**bits - 1 if limit is None else 2 * limit
        self.recomputed = config.weight_scale == "recomputed"
        self.range = config.weight_range
        self.register_buffer("unit", weight.new_ones(()))
        self.latent = nn.Parameter(weight.detach().clone())
        scale, zero_point = self._grid_of_weight(moments)
        if least_scale is not None:  # a channel of zeros gets the finest grid
            zero = weight.flatten(1).abs().amax(1) <= torch.finfo(weight.dtype).tiny
            scale = torch.where(zero, least_scale, torch.maximum(scale, least_scale))
        self.register_buffer("zero_point", zero_point)
        self.scale = Scale(scale)
        if not self.recomputed:
            self.scale.learn(True)
            self.unit = per_row(scale, weight.dim())
            low, high = -zero_point, self.top - zero_point
            # latent weights must start at rounded values: one close to a rounding boundary would cross it by chance
            # and undo the balance of errors that the rounding method achieved
            given = RoundingInput(self.latent.detach() / self.unit, low, high, moments)
            self.latent = nn.Parameter(rounded(config.weight_rounding, given))
        if learn_gain:
            self.scale.log_gain = nn.Parameter(torch.zeros_like(scale))

    @property
    def weight(self) -> Tensor:
        """The float weight before quantization."""
        return self.latent if self.recomputed else self.latent * self.unit

    def _grid_of_weight(self, moments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the grid; where moments are known, a weight's squared error counts by its input's mean square."""
        rows = self.weight.detach().flatten(1)
        if self.range == "mse":
            importance = None
            if moments is not None and moments.isfinite().all():
                squares = moments.diagonal(dim1=1, dim2=2)
                importance = squares.repeat_interleave(len(rows) // len(squares), 0)
            return mse_grid(rows, self.top, self.symmetric, importance)
        low, high = rows.amin(1), rows.amax(1)
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        return grid_of_range(low, high, self.top)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero-point of the values that :meth:`forward` returns, ``(out,)`` each."""
        return self._grid_of_weight() if self.recomputed else (self.scale(), self.zero_point)

    def forward(self) -> Tensor:
        """Return the fake-quantized weight, in the weight's shape."""
        held = self.scale.rounding_scale(), self.zero_point
        scale, zero_point = self._grid_of_weight() if self.recomputed else held
        dims = self.latent.dim()
        out = fake_quantize(self.weight, per_row(scale, dims), per_row(zero_point, dims), self.top)
        return out if self.scale.log_gain is None else out * per_row(self.scale.log_gain.exp(), dims)


class FixedWeight(nn.Module):
    """Holds a weight that is not learned: the float one, or the quantized one after tuning.

    Args:
        weight: ``(out, ...)``.
        scale: scale of the quantized weight, ``(out,)``.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.scale = Scale(weight.new_zeros(len(weight)) if scale is None else scale)

    def forward(self) -> Tensor:
        """Return the weight."""
        return self.weight


class ActivationQuantizer(nn.Module):
    """Fake-quantizes a tensor with one scale and one zero-point, to codes from 0 to ``2**bits - 1``.

    Scale and zero-point are zero until calibration or a checkpoint sets them (:meth:`set_grid`).

    Args:
        bits: 2 to 8.
    """

    zero_point: Tensor
    observer: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    """If set, called with every input; returns the scale and zero-point, ``()`` each, to quantize that input with."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.top = bits, 2**bits - 1
        self.observer = None
        self.scale = Scale(torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def set_grid(self, scale: Tensor, zero_point: Tensor) -> None:
        """Set scale and zero-point, both ``()``."""
        self.scale.fixed, self.zero_point = scale.detach().clone(), zero_point.detach().clone()

    def code(self, value: float) -> int:
        """Return the code of a number, which may be infinite."""
        if math.isinf(value):
            return 0 if value < 0 else self.top
        scale, zero_point = self.scale().detach().cpu(), int(self.zero_point)
        return int((torch.tensor(value) / scale).round().clamp(-zero_point, self.top - zero_point)) + zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x`` (any shape)."""
        if self.observer is not None:
            return fake_quantize(x, *self.observer(x), self.top)
        return fake_quantize(x, self.scale(), self.zero_point, self.top)
