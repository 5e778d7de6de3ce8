"""Torch's global settings as this package expects them, whatever a caller from Python has made of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Within the block tensors are float32 where nothing else is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _put_back(device: torch.device) -> None:
    if torch.get_default_device() != device:  # not always, and None for the usual one: any other slows every call down
        torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def usual_settings() -> Iterator[None]:
    """Within the block tensors are float32, on the CPU and with gradients where nothing else is said.

    At the end the caller's settings are as before, and so are the states of the global random generators: networks are
    built with random weights before their own are read.
    """
    with ExitStack() as stack:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(float32_by_default())
        device = torch.get_default_device()
        stack.callback(_put_back, device)
        if device.type != "cpu":  # not always: it looks at every function that is called
            stack.enter_context(torch.device("cpu"))
        yield
