"""What a network does, seen by running it once: which layers are called, in which order, on what shapes.

Everything that depends on a network's structure (what to quantize, where the features are) is decided here from what
happens, never from names.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ACTIVATIONS: frozenset[Callable[..., Tensor]] = frozenset(
    {
        F.relu,
        F.relu_,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        F.relu6,
        F.hardtanh,
        F.hardtanh_,
        F.leaky_relu,
        F.leaky_relu_,
        F.prelu,
        torch.prelu,
        F.elu,
        F.elu_,
        F.selu,
        F.celu,
        F.silu,
        F.mish,
        F.hardswish,
        F.gelu,
    }
)
"""Functions whose output counts as "what leaves a ReLU-like activation". Gates (sigmoid and kin) do not."""


@dataclass
class Trace:
    """What one forward pass in evaluation mode did."""

    layers: list[str] = field(default_factory=list)
    """Convolutions and linear layers that the network calls, in the order of their first calls."""
    activations: list[str] = field(default_factory=list)
    """Names of the activation calls, in order: the module that made the call, ``#k`` behind its k-th further one."""
    batch_norms: list[str] = field(default_factory=list)
    """Names of the calls of batch norms on images, in order; the module that made the call, ``#k`` as above."""
    output: Any = None

    @property
    def classifier(self) -> str:
        """The last layer called: what enters it are the pooled features."""
        return self.layers[-1]


class _Watcher(TorchFunctionMode):
    def __init__(self, trace: Trace, path: Callable[[], str]) -> None:
        super().__init__()
        self.trace, self.path = trace, path
        self.calls: dict[tuple[str, str], int] = {}

    def _name(self, kind: str) -> str:
        owner = self.path()
        k = self.calls.get((kind, owner), 0)
        self.calls[kind, owner] = k + 1
        return f"{owner}#{k}" if k else owner

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS:
            self.trace.activations.append(self._name("activation"))
        elif func is F.batch_norm and out.dim() == 4:
            self.trace.batch_norms.append(self._name("batch norm"))
        return out


@torch.no_grad()
def trace_network(network: nn.Module, example: Tensor) -> Trace:
    """Run ``network`` once on ``example`` ``(B, C, H, W)`` and note what it calls."""
    trace = Trace()
    stack: list[str] = []

    def enter(name: str, module: nn.Module, args: Any) -> None:
        stack.append(name)

    def leave(name: str, module: nn.Module, args: Any, out: Any) -> None:
        stack.pop()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in trace.layers:
            trace.layers.append(name)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
            hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        with _Watcher(trace, lambda: stack[-1]):
            trace.output = network(example)
    return trace


class FeatureTap:
    """Within the block, ``features`` is what last entered ``module``, ``(B, D)``, pooled where it has a size."""

    features: Tensor

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> Self:
        self._handle = self.module.register_forward_pre_hook(self._read)
        return self

    def _read(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        features = args[0]
        self.features = features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
