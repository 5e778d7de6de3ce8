"""Start ranges of the activations, from the synthetic images."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.quantizers import EmaObserver, MseObserver
from intraq_cli.recipe import Quantization


@contextmanager
def observing(network: QuantizedNetwork, make: Callable[[int], MseObserver | EmaObserver]) -> Iterator[None]:
    """Within the block the activation quantizers observe; behind it they have the observed grids."""
    observers = [make(quantizer.bits) for quantizer in network.sites.values()]
    for quantizer, observer in zip(network.sites.values(), observers, strict=True):
        quantizer.observer = observer
    try:
        yield
        for quantizer, observer in zip(network.sites.values(), observers, strict=True):
            quantizer.set_grid(*observer.grid())
    finally:
        for quantizer in network.sites.values():
            quantizer.observer = None


@torch.no_grad()
def calibrate(network: QuantizedNetwork, batches: Iterable[Tensor], config: Quantization) -> None:
    """Set the activation ranges from ``batches`` of images ``(B, C, H, W)``.

    ``mse`` looks at the activations of the network as it is called (so, before its weights are quantized, at the
    teacher's); ``ema`` warms up as published, the activations quantized with the range so far.
    """
    make = MseObserver if config.activation_range == "mse" else _ema(config.ema_beta)
    with observing(network, make):
        for batch in batches:
            network(batch)
    for quantizer in network.sites.values():
        quantizer.learn_scale(config.activation_scale == "learned")


def _ema(beta: float) -> Callable[[int], EmaObserver]:
    return lambda bits: EmaObserver(bits, beta)
