"""The first grids, before any tuning: ranges, rounding, and batch norms that make up for both.

One run of the network does it for all layers: where a layer or an activation is called, its input carries the errors
of everything before it, and what is set there is in place for everything behind it.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.graph.batch_norms import BatchNormStatistics, CorrectedStatistics, SampledOutputs
from intraq_cli.graph.trace import ACTIVATIONS, LAYERS, LayerCall, split_call, weight_names
from intraq_cli.quantization.affine import fake_quantize, grid_of_range, mse_grid
from intraq_cli.quantization.curvature import input_rows, second_moments
from intraq_cli.quantization.network import QuantizedCalls, QuantizedNetwork
from intraq_cli.quantization.quantizers import ActivationQuantizer, EmaObserver, WeightQuantizer
from intraq_cli.recipe import Quantization

SAMPLE = 2**18
"""Values, evenly spread, from which an activation's range is taken."""
IMAGES_PER_RANGE = 16
"""Images on which candidates of an activation's range are compared by what they do to the next layer's output."""
FACTORS = tuple(2 ** (k / 8) for k in range(-8, 7))
"""Those candidates, times the error-minimising range."""
WIDEST = 8192
"""Inputs of a single output up to which weights are rounded by curvature: the work grows with their third power."""
RUINED = 0.5
"""Agreement with the teacher, on the images, below which batch norms are corrected to rescue the network."""
DAMPING = 0.03
"""Of the second moments that rounding by curvature goes by, relative to their mean."""


@torch.no_grad()
def calibrate(
    student: QuantizedNetwork, teacher: nn.Module, images: Tensor, config: Quantization, sampled: bool = False
) -> None:
    """Give ``student`` all its grids and rounded weights, and correct its batch norms' statistics if need be.

    Args:
        student: on the teacher's device, without weight quantizers; gets them.
        teacher: the float network, in evaluation mode.
        images: ``(B, C, H, W)``, on the same device; all in one run.
        config: the recipe's quantization section.
        sampled: let every batch norm put out samples from its own statistics, whatever ``images`` are.
    """
    _calibrate(student, teacher, images, config, sampled, config.correction == "always")
    if config.correction == "rescue" and _agreement(student, teacher, images) < RUINED:
        student.weight_quantizers = nn.ModuleList()
        for site in student.sites.values():
            site.learn_scale(False)
        _calibrate(student, teacher, images, config, sampled, True)


def _agreement(student: nn.Module, teacher: nn.Module, images: Tensor) -> float:
    return float((student(images).argmax(1) == teacher(images).argmax(1)).float().mean())


def _calibrate(
    student: QuantizedNetwork, teacher: nn.Module, images: Tensor, config: Quantization, sampled: bool, correct: bool
) -> None:
    noise = SampledOutputs if sampled else nullcontext
    with BatchNormStatistics() as clean, noise(), _Look(teacher) as look:
        teacher(images)
    corrected = CorrectedStatistics(clean.layers) if correct else nullcontext()
    with corrected, noise(), _Calibrating(student, config, look, correct) as made:
        student.network(images)
    made.check()
    if isinstance(corrected, CorrectedStatistics):
        corrected.write()
    student.weight_quantizers = nn.ModuleList(made.quantizers[name] for name in student.plan.weights)
    for site in student.sites.values():
        site.learn_scale(config.activation_scale == "learned")


class _Look(TorchFunctionMode):
    """Within the block, notes how the teacher's layers hang together."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.names = weight_names(teacher)
        self.normalized: set[str] = set()
        """Layers whose output enters a batch norm."""
        self.means: dict[str, Tensor] = {}
        """Of what layers with a bias put out at their first call, per channel."""
        self.consumers: dict[int, tuple[str, LayerCall]] = {}
        """By activation call: the layer whose input is what leaves it."""
        self._layer: tuple[str, Tensor] | None = None
        self._activation: Tensor | None = None
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in LAYERS:
            x, weight, call = split_call(func, args, kwargs)
            name = self.names.get(id(weight))
            if name is not None:
                if x is self._activation:
                    self.consumers.setdefault(self._calls - 1, (name, call))
                if call.settings["bias"] is not None:
                    self.means.setdefault(name, _channel_mean(func, out))
                self._layer = name, out
        elif func in ACTIVATIONS:
            self._activation = out
            self._calls += 1
        elif func is F.batch_norm and self._layer is not None and args and args[0] is self._layer[1]:
            self.normalized.add(self._layer[0])
        return out


def _channel_mean(func: Any, out: Tensor) -> Tensor:
    return out.flatten(0, -2).mean(0) if func is F.linear else out.transpose(0, 1).flatten(1).mean(1)


class _Calibrating(QuantizedCalls):
    """Within the block, everything that is called gets its grid, and goes on quantized by it."""

    def __init__(self, student: QuantizedNetwork, config: Quantization, look: _Look, correct: bool) -> None:
        super().__init__(student)
        self.config, self.look, self.correct = config, look, correct
        self.quantizers: dict[str, WeightQuantizer] = {}

    def call_layer(self, name: str, call: LayerCall, x: Tensor, weight: Tensor) -> Tensor:
        """Calibrate the layer at its first call."""
        if name not in self.quantizers:
            with DisableTorchFunction():  # thousands of small operations, of no interest to those who watch
                self._calibrate(name, call, x, weight)
        if name in self.inputs:
            x = self.inputs[name](x)
        return call(x, self.quantizers[name]())

    def _calibrate(self, name: str, call: LayerCall, x: Tensor, weight: Tensor) -> None:
        if name in self.inputs:
            self._set_grid(self.inputs[name], x, name, partial(call, weight=weight))
            x = self.inputs[name](x)
        self._round(name, call, x, weight)
        wanted = self.look.means.get(name)
        if self.correct and wanted is not None and name not in self.look.normalized:
            call.settings["bias"].add_(wanted - _channel_mean(call.func, call(x, self.quantizers[name]())))

    def quantized_output(self, index: int, out: Tensor) -> Tensor:
        """Set the grid of an activation call's output."""
        name, consumer = self.look.consumers.get(index, ("", None))
        run = partial(consumer, weight=self.quantized.weight_of(name)) if consumer else None
        with DisableTorchFunction():
            self._set_grid(self.outputs[index], out, name, run)
        quantized: Tensor = self.outputs[index](out)
        return quantized

    def _round(self, name: str, call: LayerCall, x: Tensor, weight: Tensor) -> None:
        moments = None
        if self.config.weight_rounding == "curvature" and weight[0].numel() <= WIDEST:
            generator = torch.Generator().manual_seed(len(self.quantizers))
            rows = input_rows(call, x, weight, generator)
            if name in self.look.normalized:  # what is added to every place, the batch norm takes away
                rows = rows - rows.mean(1, keepdim=True)
            moments = second_moments(rows, DAMPING)
        bits = self.quantized.plan.weights[name]
        self.quantizers[name] = WeightQuantizer(weight, bits, self.config, moments)

    def _set_grid(
        self, quantizer: ActivationQuantizer, x: Tensor, name: str, call: Callable[[Tensor], Tensor] | None
    ) -> None:
        flat = x.flatten()
        sample = flat[:: max(1, len(flat) // SAMPLE)]
        # the extremes stay in the sample: the search starts from the full range
        sample = torch.cat([sample, flat.amin()[None], flat.amax()[None]])
        scale, zero_point = (grid[0] for grid in mse_grid(sample[None], quantizer.bits))
        quantizer.set_grid(scale, zero_point)
        if self.config.activation_range != "output" or call is None:
            return
        some = x[:IMAGES_PER_RANGE]
        wanted = call(some)
        per_channel = tuple(k for k in range(wanted.dim()) if k != 1) if name in self.look.normalized else None
        variance = wanted.var(per_channel, keepdim=True).clamp(min=1e-12)
        top = 2**quantizer.bits - 1
        best = torch.inf
        for factor in FACTORS:
            low, high = -zero_point * scale * factor, (top - zero_point) * scale * factor
            grid = grid_of_range(low, high, quantizer.bits)
            error = float(((call(fake_quantize(some, *grid, quantizer.bits)) - wanted).square() / variance).mean())
            if error < best:
                best = error
                quantizer.set_grid(*grid)


@torch.no_grad()
def warm_up(student: QuantizedNetwork, batches: Iterable[Tensor], config: Quantization) -> None:
    """Set the activation ranges as published: a moving average over ``batches`` of images ``(B, C, H, W)``.

    The weights are quantized already, and the activations by the range so far.
    """
    observers = [EmaObserver(quantizer.bits, config.ema_beta) for quantizer in student.sites.values()]
    try:
        for quantizer, observer in zip(student.sites.values(), observers, strict=True):
            quantizer.observer = observer
        for batch in batches:
            student(batch)
    finally:
        for quantizer in student.sites.values():
            quantizer.observer = None
    for quantizer, observer in zip(student.sites.values(), observers, strict=True):
        quantizer.set_grid(*observer.grid())
        quantizer.learn_scale(config.activation_scale == "learned")
