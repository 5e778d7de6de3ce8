"""In which precision convolutions are computed while images are learned and networks are tuned."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.recipe import Precision
from intraq_cli.trace import LayerCall, split_call


def convolutions_in(precision: Precision, device: torch.device | str) -> AbstractContextManager[Any]:
    """Within the block, convolutions are computed in ``precision``; ``auto``: the faster one on ``device``.

    CUDA stays with float32, which torch's convolutions there compute in TF32.
    """
    if precision == "auto":
        native = torch.device(device).type == "cpu" and multiplies_bfloat16(torch.cpu.get_capabilities())
        precision = "bfloat16" if native else "float32"
    return Bfloat16Convolutions() if precision == "bfloat16" else nullcontext()


def multiplies_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Of a CPU, by :func:`torch.cpu.get_capabilities`; others can do so too, but many times slower than in float32."""
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


class Bfloat16Convolutions(TorchFunctionMode):
    """Within the block, 2-D convolutions of float32 multiply in bfloat16; what they put out is float32 again.

    All between them, statistics, quantizers and losses, keeps its precision. So does a bias: it is added at the end.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d:
            return func(*args, **kwargs)
        x, weight, call = split_call(func, args, kwargs)
        if x.dtype != torch.float32:
            return func(*args, **kwargs)
        settings = call.settings
        bias = settings.pop("bias", None)
        out = LayerCall(func, (), settings)(x.bfloat16(), weight.bfloat16()).float()
        return out if bias is None else out + bias[:, None, None]
