"""Torch's global settings as this package expects them, independent of the settings of the calling Python code."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Within the block, the default dtype of tensors is float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _put_back(device: torch.device) -> None:
    if torch.get_default_device() != device:  # only if needed; None for the CPU: a default device slows every call
        torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def usual_settings() -> Iterator[None]:
    """Within the block, torch's defaults are float32, the CPU, and gradients enabled.

    At the end the caller's settings are restored, and so are the states of the global random generators, from which
    networks draw initial weights before their own are loaded.
    """
    with ExitStack() as stack:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(float32_by_default())
        device = torch.get_default_device()
        stack.callback(_put_back, device)
        if device.type != "cpu":  # only if needed: it intercepts every torch call
            stack.enter_context(torch.device("cpu"))
        yield
