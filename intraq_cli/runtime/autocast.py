"""In which precision graphs compute while images are learned and networks are tuned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from intraq_cli.graph.cpu_kernels import bfloat16_kernels
from intraq_cli.recipe import Precision


def in_precision(graph: fx.GraphModule, precision: Precision, device: torch.device | str) -> nn.Module:
    """``graph``, computing in ``precision``; ``auto``: the faster one on ``device``.

    CUDA stays with float32, which torch's convolutions there compute in TF32.
    """
    kind = torch.device(device).type
    if precision == "auto":
        native = kind == "cpu" and multiplies_bfloat16(torch.cpu.get_capabilities())
        precision = "bfloat16" if native else "float32"
    return Bfloat16(graph, kind) if precision == "bfloat16" else graph


def multiplies_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Of a CPU, by :func:`torch.cpu.get_capabilities`; others can do so too, but many times slower than in float32."""
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


class Bfloat16(nn.Module):
    """Convolutions take and give bfloat16 (``torch.autocast``), and what follows goes on with it.

    Linear layers, and so the logits, are left in float32, and so is all that sums over many values: statistics,
    distances and losses.

    Args:
        graph: what runs.
        device_type: where it runs.
    """

    def __init__(self, graph: fx.GraphModule, device_type: str) -> None:
        super().__init__()
        self.graph, self.device_type = bfloat16_kernels(graph), device_type

    def forward(self, *args: Any) -> Any:
        """As the graph does."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            return self.graph(*args)
