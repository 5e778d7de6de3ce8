"""In which precision networks compute while images are learned and networks are tuned."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.graph.depthwise import is_strided_depthwise, strided_depthwise
from intraq_cli.graph.trace import split_call
from intraq_cli.recipe import Precision


def autocast(precision: Precision, device: torch.device | str) -> AbstractContextManager[Any]:
    """Within the block, networks compute in ``precision``; ``auto``: the faster one on ``device``.

    CUDA stays with float32, which torch's convolutions there compute in TF32.
    """
    kind = torch.device(device).type
    if precision == "auto":
        native = kind == "cpu" and multiplies_bfloat16(torch.cpu.get_capabilities())
        precision = "bfloat16" if native else "float32"
    return Bfloat16(kind) if precision == "bfloat16" else nullcontext()


def multiplies_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Of a CPU, by :func:`torch.cpu.get_capabilities`; others can do so too, but many times slower than in float32."""
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


class Bfloat16(TorchFunctionMode):
    """Within the block, convolutions take and give bfloat16 (``torch.autocast``), and what follows goes on with it.

    Linear layers, and so the logits, are left in float32, and so is all that sums over many values: statistics,
    distances and losses.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.autocast = torch.autocast(device_type, dtype=torch.bfloat16)

    def __enter__(self) -> Self:
        self.autocast.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.autocast.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in (F.linear, F.conv2d):
            return func(*args, **kwargs)
        x, weight, call = split_call(func, args, kwargs)
        if func is F.linear:
            with torch.autocast(self.device_type, enabled=False):
                return call(x.to(weight.dtype), weight)
        single = self.device_type == "cpu" and weight.dtype == torch.float32
        if single and torch.is_grad_enabled() and is_strided_depthwise(x, weight, call):
            return strided_depthwise(x, weight, call)
        return func(*args, **kwargs)
