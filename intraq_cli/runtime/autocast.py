"""The precision in which graphs compute in stage 1 and stage 2."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from intraq_cli.choices import Precision
from intraq_cli.graph.cpu_kernels import bfloat16_kernels


def in_precision(graph: fx.GraphModule, precision: Precision, device: torch.device | str) -> nn.Module:
    """Return ``graph`` as a module that computes in ``precision``; ``auto``: the faster one on ``device``.

    ``auto`` on CUDA is float32, where torch's convolutions use TF32.
    """
    kind = torch.device(device).type
    if precision == "auto":
        fast = kind == "cpu" and multiplies_bfloat16(torch.cpu.get_capabilities())
        precision = "bfloat16" if fast else "float32"
    return Bfloat16(graph, kind) if precision == "bfloat16" else graph


def multiplies_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU has fast bfloat16, by :func:`torch.cpu.get_capabilities`.

    AMX is fast, and so is AVX-512 on AMD CPUs. On Intel CPUs, AVX-512 multiplies bfloat16 no faster than float32.
    Measured on a Xeon without AMX: steps of ResNet-20 took 1.0 to 1.6 times as long, of MobileNetV1 0.8 to 1.1 times.
    """
    intel = str(capabilities.get("cpu_name", "")).startswith("Intel")
    return bool(capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not intel))


class Bfloat16(nn.Module):
    """A graph whose convolutions run in bfloat16 (``torch.autocast``), and so do the operations after them.

    Linear layers, and so the logits, stay in float32. So do sums over many values: statistics, distances and losses.

    Args:
        graph: the graph to run.
        device_type: type of the device that it runs on.
    """

    def __init__(self, graph: fx.GraphModule, device_type: str) -> None:
        super().__init__()
        self.graph, self.device_type = bfloat16_kernels(graph), device_type

    def forward(self, *args: Any) -> Any:
        """Run the graph."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            return self.graph(*args)
