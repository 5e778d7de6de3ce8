"""Quantizers: one for a layer's weight, one for a tensor on its way through the network."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from intraq_cli.quantization.affine import fake_quantize, grid_of_range, mse_grid, per_row
from intraq_cli.quantization.rounding import RoundingInput, rounded
from intraq_cli.recipe import Quantization

SCALE = "scale"
"""Name of the submodule of every quantizer that returns its scale, for nodes of a graph that need it."""


class Scale(nn.Module):
    """The scale of a grid: the distance between neighbouring values; fixed, or learned through its logarithm.

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
        """Make the logarithm a parameter, or fix the scale at the value that it has."""
        if learn:
            self.log_scale = nn.Parameter(self.fixed.log())
        elif self.log_scale is not None:
            self.fixed, self.log_scale = self.log_scale.detach().exp(), None

    def rounding_scale(self) -> Tensor:
        """The scale on which values are rounded."""
        return self.fixed if self.log_scale is None else self.log_scale.exp()

    def forward(self) -> Tensor:
        """The scale of the values that leave the quantizer."""
        return self.rounding_scale() if self.log_gain is None else self.rounding_scale() * self.log_gain.exp()


class WeightQuantizer(nn.Module):
    """Per output channel: holds the latent float weight ``(out, ...)`` and yields the quantized one.

    With learned scales, ``latent`` is the weight in units of each channel's first quantization step: an optimizer whose
    steps have a size of their own (Adam) then moves every channel of every layer by as much as its grid is coarse.
    With recomputed ones it is the weight itself, as published.

    Args:
        weight: ``(out, ...)``.
        bits: 2 to 8.
        config: the recipe's quantization section.
        moments: of the layer's inputs, ``(G, d, d)``, for roundings that go by them.
        limit: largest code minus zero-point, up or down: the grid is then symmetric; None: asymmetric, all codes.
        least_scale: ``(out,)``: finer grids are of no use.
        learn_gain: learn a factor for each output channel, as a batch norm's gamma is one; codes do not change by it.
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
            # what starts close to a border crosses it by chance, and undoes what rounding has balanced
            given = RoundingInput(self.latent.detach() / self.unit, low, high, moments)
            self.latent = nn.Parameter(rounded(config.weight_rounding, given))
        if learn_gain:
            self.scale.log_gain = nn.Parameter(torch.zeros_like(scale))

    @property
    def weight(self) -> Tensor:
        """The float weight that is quantized."""
        return self.latent if self.recomputed else self.latent * self.unit

    def _grid_of_weight(self, moments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Each weight's error counts as much as its input is large, where that is known."""
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
        """Scale and zero-point of the values that :meth:`forward` returns, ``(out,)`` each."""
        return self._grid_of_weight() if self.recomputed else (self.scale(), self.zero_point)

    def forward(self) -> Tensor:
        """The quantized weight, of the weight's shape."""
        held = self.scale.rounding_scale(), self.zero_point
        scale, zero_point = self._grid_of_weight() if self.recomputed else held
        dims = self.latent.dim()
        out = fake_quantize(self.weight, per_row(scale, dims), per_row(zero_point, dims), self.top)
        return out if self.scale.log_gain is None else out * per_row(self.scale.log_gain.exp(), dims)


class FixedWeight(nn.Module):
    """Holds a weight that is not learned: the float one, or the quantized one when tuning is over.

    Args:
        weight: ``(out, ...)``.
        scale: of the quantized one, ``(out,)``.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.scale = Scale(weight.new_zeros(len(weight)) if scale is None else scale)

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


class ActivationQuantizer(nn.Module):
    """Fake-quantizes a tensor with one scale and one zero-point, to codes from 0 to ``2**bits - 1``.

    Scale and zero-point are zero until calibration or a checkpoint sets them (:meth:`set_grid`).

    Args:
        bits: 2 to 8.
    """

    zero_point: Tensor
    observer: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    """If set, called with every input; returns the scale and the zero-point, ``()`` each, to quantize it with."""

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
        """The code of a number, infinity included."""
        if math.isinf(value):
            return 0 if value < 0 else self.top
        scale, zero_point = self.scale().detach().cpu(), int(self.zero_point)
        return int((torch.tensor(value) / scale).round().clamp(-zero_point, self.top - zero_point)) + zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x`` (any shape)."""
        if self.observer is not None:
            return fake_quantize(x, *self.observer(x), self.top)
        return fake_quantize(x, self.scale(), self.zero_point, self.top)
