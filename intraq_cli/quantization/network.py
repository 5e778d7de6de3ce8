"""A network whose weights and activations are quantized as it runs; its own code and modules stay as they are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intraq_cli.errors import ModelError
from intraq_cli.graph.trace import ACTIVATIONS, LAYERS, LayerCall, Trace, split_call, weight_names
from intraq_cli.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from intraq_cli.recipe import Placement, Quantization

IMAGE_BITS = 8
"""Bits of the image itself, in the placement that quantizes every layer's input."""


@dataclass(frozen=True)
class Plan:
    """What is quantized, and at which bits."""

    placement: Placement
    weights: dict[str, int]
    """Layer name to bits."""
    activations: dict[str, int]
    """Site name to bits, in the order of calls: a layer's name (its input), or an activation call's (its output)."""
    computed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Layers, in the order of calls, whose weight the network computes as it runs, and its shape; they stay float
    where ``weights`` has no bits for them."""


def plan_quantization(
    trace: Trace, w_bits: int, a_bits: int, placement: Placement, first_last_bits: int | None = None
) -> Plan:
    """Decide what is quantized: every convolution and linear layer that the network calls, from the first to the last.

    Raises:
        ModelError: the network has no ReLU-like activation, and the placement asks for them.
    """
    names = trace.layers
    ends = {names[0], names[-1]} if first_last_bits else set()
    weights = {name: first_last_bits if name in ends and first_last_bits else w_bits for name in names}
    computed = {name: tuple(weight.shape) for name, weight in trace.computed.items()}
    if placement == "activations":
        if not trace.activations:
            raise ModelError("the network calls no ReLU-like activation", "use --act-placement inputs")
        return Plan(placement, weights, dict.fromkeys(trace.activations, a_bits), computed)
    inputs = {name: first_last_bits if name in ends and first_last_bits else a_bits for name in names}
    # the first layer too where the network itself normalises or rearranges the image
    image = {layer.name for layer in trace.calls if layer.reads_image} & set(names) | {names[0]}
    inputs |= dict.fromkeys(image, IMAGE_BITS)
    return Plan(placement, weights, inputs, computed)


class QuantizedNetwork(nn.Module):
    """Runs ``network`` with quantized activations and, while ``weight_quantizers`` are there, quantized weights.

    The functions that the network calls are watched: a convolution or linear layer is known by the parameter that is
    its weight, and gets the quantized one instead; ReLU-like functions, and layers whose weight is computed as the
    network runs, by their order, which is the same every time. After :meth:`freeze` the network itself holds the
    dequantized weights.

    Args:
        network: in evaluation mode.
        plan: what to quantize.
        computed: the weights that ``network`` computes as it runs, for :attr:`Plan.computed`; missing ones are zero.
    """

    def __init__(self, network: nn.Module, plan: Plan, computed: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.weight_quantizers = nn.ModuleList()
        self.activation_quantizers = nn.ModuleList(ActivationQuantizer(bits) for bits in plan.activations.values())
        self.computed_weights = nn.ParameterList(
            nn.Parameter((computed or {}).get(name, torch.zeros(shape)), requires_grad=False)
            for name, shape in plan.computed.items()
            if name in plan.weights
        )

    def quantize_weights(self, config: Quantization) -> None:
        """Give every planned layer a weight quantizer, started from the network's own weights."""
        self.weight_quantizers = nn.ModuleList(
            WeightQuantizer(self.weight_of(name), bits, config) for name, bits in self.plan.weights.items()
        )

    def weight_of(self, layer: str) -> nn.Parameter:
        """The network's own weight of a layer; idle while a quantizer holds the latent one."""
        if layer in self._computed:
            return self._computed[layer]
        return self.network.get_parameter(self.weight_key(layer))

    def weight_key(self, layer: str) -> str:
        """Key of a layer's weight in the network's state dict; of a computed one, what the key would be."""
        module, _, name = layer.rpartition(".")
        is_key = layer not in self.plan.computed and name in self.network.get_submodule(module)._parameters
        return layer if is_key else f"{layer}.weight"

    @property
    def _computed(self) -> dict[str, nn.Parameter]:
        names = [name for name in self.plan.computed if name in self.plan.weights]
        return dict(zip(names, self.computed_weights, strict=True))

    @property
    def latent(self) -> dict[str, WeightQuantizer]:
        """Weight quantizers by layer; none before :meth:`quantize_weights` and after :meth:`freeze`."""
        quantizers = cast(Iterable[WeightQuantizer], self.weight_quantizers)
        return dict(zip(self.plan.weights, quantizers, strict=True)) if len(self.weight_quantizers) else {}

    @property
    def sites(self) -> dict[str, ActivationQuantizer]:
        """Activation quantizers by site, in the order of calls."""
        return dict(
            zip(self.plan.activations, cast(Iterable[ActivationQuantizer], self.activation_quantizers), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        with QuantizedCalls(self) as calls:
            out: Tensor = self.network(x)
        calls.check()
        return out

    @torch.no_grad()
    def freeze(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """End the tuning: fix all grids, and leave the dequantized weights in the network.

        Returns, per layer, what a checkpoint stores of its weight: codes (uint8, of the weight's shape), scale and
        zero-point, ``(out,)`` each.
        """
        stored = {}
        for name, quantizer in self.latent.items():
            scale, zero_point = quantizer.grid()
            per_row = quantizer.per_row
            weight = quantizer()
            # exact: the quantized weight is a whole number times its scale
            codes = (weight / scale.view(per_row)).round() + zero_point.view(per_row)
            stored[name] = (codes.to(torch.uint8), scale, zero_point)
            self.weight_of(name).data.copy_(dequantize(*stored[name]))
        self.weight_quantizers = nn.ModuleList()
        for site in self.sites.values():
            site.learn_scale(False)
        return stored


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Float weight of codes: ``(q - z) s``, ``z`` and ``s`` ``(out,)``."""
    per_row = (-1,) + (1,) * (codes.dim() - 1)
    return (codes.to(scale.dtype) - zero_point.view(per_row)) * scale.view(per_row)


class QuantizedCalls(TorchFunctionMode):
    """Within the block, the network's layers and activations are quantized where they are called."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        super().__init__()
        self.quantized = quantized
        self.names = weight_names(quantized.network)
        self.weights: dict[str, Tensor] = dict(quantized._computed)
        self.weights.update((name, quantizer()) for name, quantizer in quantized.latent.items())
        self.computed = list(quantized.plan.computed)
        inputs = quantized.plan.placement == "inputs"
        self.inputs = quantized.sites if inputs else {}
        self.outputs = [] if inputs else list(quantized.sites.values())
        self.computed_calls = self.activation_calls = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in LAYERS:
            return self._layer(*split_call(func, args, kwargs))
        out = func(*args, **kwargs)
        if func in ACTIVATIONS and self.outputs:
            self.activation_calls += 1
            if self.activation_calls <= len(self.outputs):
                out = self.quantized_output(self.activation_calls - 1, out)
        return out

    def _layer(self, x: Tensor, weight: Tensor, call: LayerCall) -> Tensor:
        name = self.names.get(id(weight))
        if name is None and not any(weight is buffer for buffer in self.quantized.network.buffers()):
            name = self._computed_name()
        if name is not None and name in self.quantized.plan.weights:
            return self.call_layer(name, call, x, weight)
        return call(x, weight)

    def call_layer(self, name: str, call: LayerCall, x: Tensor, weight: Tensor) -> Tensor:
        """Call a planned layer with what is quantized in place of ``x`` and ``weight``."""
        if name in self.inputs:
            x = self.inputs[name](x)
        return call(x, self.weights.get(name, weight))

    def quantized_output(self, index: int, out: Tensor) -> Tensor:
        """What goes on in place of the output of the activation call ``index``."""
        quantized: Tensor = self.outputs[index](out)
        return quantized

    def _computed_name(self) -> str | None:
        """Of the next layer whose weight is computed; None, and noted, where there was none in the first look."""
        self.computed_calls += 1
        return self.computed[self.computed_calls - 1] if self.computed_calls <= len(self.computed) else None

    def check(self) -> None:
        """See that the network called what it called when it was first looked at."""
        for kind, calls, expected, hint in (
            ("activations", self.activation_calls, len(self.outputs), "use --act-placement inputs"),
            (
                "layers with computed weights",
                self.computed_calls,
                len(self.computed),
                "such networks cannot be quantized",
            ),
        ):
            if calls != expected:
                raise ModelError(
                    f"the network called {calls} {kind}, and {expected} when it was first looked at",
                    f"its path depends on its input: {hint}",
                )
