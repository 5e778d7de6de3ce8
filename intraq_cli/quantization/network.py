"""A network whose weights and activations are quantized as it runs; its own code and modules stay as they are."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from intraq_cli.errors import ModelError
from intraq_cli.quantization.quantizers import ActivationQuantizer, Placement, WeightQuantizer
from intraq_cli.recipe import Quantization
from intraq_cli.trace import ACTIVATIONS, Trace

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
    if placement == "activations":
        if not trace.activations:
            raise ModelError("the network calls no ReLU-like activation", "use --act-placement inputs")
        return Plan(placement, weights, dict.fromkeys(trace.activations, a_bits))
    inputs = {name: first_last_bits if name in ends and first_last_bits else a_bits for name in names}
    inputs[names[0]] = IMAGE_BITS
    return Plan(placement, weights, inputs)


class QuantizedNetwork(nn.Module):
    """Runs ``network`` with quantized activations and, while ``weight_quantizers`` are there, quantized weights.

    Weights are put in place of the network's own for the length of a call; layer inputs are quantized by hooks that
    live as long; activations, functional ones too, by watching the calls of ReLU-like functions, which come in the
    same order every time. After :meth:`freeze` the network itself holds the dequantized weights.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.weight_quantizers = nn.ModuleList()
        self.activation_quantizers = nn.ModuleList(ActivationQuantizer(bits) for bits in plan.activations.values())

    def quantize_weights(self, config: Quantization) -> None:
        """Give every planned layer a weight quantizer, started from the network's own weights."""
        self.weight_quantizers = nn.ModuleList(
            WeightQuantizer(self.weight_of(name), bits, config) for name, bits in self.plan.weights.items()
        )

    def weight_of(self, layer: str) -> nn.Parameter:
        """The network's own weight of a layer; idle while a quantizer holds the latent one."""
        weight = self.network.get_submodule(layer).weight
        assert isinstance(weight, nn.Parameter)
        return weight

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
        weights = {f"{name}.weight": quantizer() for name, quantizer in self.latent.items()}
        with self._quantized_activations():
            out: Tensor = functional_call(self.network, weights, (x,)) if weights else self.network(x)
        return out

    @contextmanager
    def _quantized_activations(self) -> Iterator[None]:
        if self.plan.placement == "activations":
            with _QuantizedCalls(list(self.sites.values())) as calls:
                yield
            calls.check()
            return
        with ExitStack() as hooks:
            for name, quantizer in self.sites.items():
                layer = self.network.get_submodule(name)
                hooks.callback(layer.register_forward_pre_hook(_quantizing(quantizer)).remove)
            yield

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


def _quantizing(quantizer: nn.Module) -> Any:
    return lambda module, args: (quantizer(args[0]), *args[1:])


class _QuantizedCalls(TorchFunctionMode):
    """Within the block, the k-th call of a ReLU-like function is followed by the k-th quantizer."""

    def __init__(self, quantizers: list[ActivationQuantizer]) -> None:
        super().__init__()
        self.quantizers = quantizers
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS:
            if self.calls < len(self.quantizers):
                out = self.quantizers[self.calls](out)
            self.calls += 1
        return out

    def check(self) -> None:
        if self.calls != len(self.quantizers):
            raise ModelError(
                f"the network called {self.calls} activations, and {len(self.quantizers)} when it was first looked at",
                "its path depends on its input; use --act-placement inputs",
            )
