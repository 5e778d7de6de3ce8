"""What a network does, seen by running it once: which layers are called, in which order, on what shapes.

Everything that depends on a network's structure (what to quantize, where the features are) is decided here from what
happens, never from names.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.graph.batch_norms import BatchNormCall

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


LAYERS: dict[Callable[..., Any], str] = {
    F.conv1d: "conv1d",
    F.conv2d: "conv2d",
    F.conv3d: "conv3d",
    F.linear: "linear",
}
"""Functions whose weights are quantized, output channels first."""

FLOAT_LAYERS: dict[Callable[..., Any], str] = {
    F.conv_transpose1d: "a transposed convolution",
    F.conv_transpose2d: "a transposed convolution",
    F.conv_transpose3d: "a transposed convolution",
    F.bilinear: "a bilinear layer",
    F.multi_head_attention_forward: "inside torch's own multi-head attention",
}
"""Functions with weights that stay float, and what they are."""


@dataclass
class Layer:
    """A convolution or linear layer, as it is called."""

    name: str
    """Key of its weight in the state dict without ``.weight``; of a weight computed at run time, the module's name."""
    kind: str
    shape: tuple[int, ...]
    """Of its weight."""
    multiply_adds: int = 0
    """For one image, all calls together."""
    outputs: int = 0
    """Values that it puts out for one image, all calls together."""
    calls: int = 0
    input_shape: tuple[int, ...] = ()
    """Of the first call, for one image."""
    activation: str | None = None
    """The activation call whose output is its input, where that is so."""
    reads_image: bool = False
    """Whether its input, at its first call, is the image itself."""
    computed: Tensor | None = None
    """The weight, where the network computes it at run time from its parameters alone (weight standardisation)."""
    float_reason: str | None = None
    """Why it cannot be quantized; None if it can."""


@dataclass
class Trace:
    """What one forward pass in evaluation mode did."""

    calls: list[Layer] = field(default_factory=list)
    """Convolutions and linear layers that the network calls, in the order of their first calls."""
    activations: list[str] = field(default_factory=list)
    """Names of the activation calls, in order: the module that made the call, ``#k`` behind its k-th further one."""
    batch_norms: list[str] = field(default_factory=list)
    """Names of the calls of batch norms on images, in order, as above."""
    classifier: str | None = None
    """Module whose call was the last one of a layer: what enters it are the pooled features. None: not a module's."""
    output: Any = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers that can be quantized."""
        return [layer.name for layer in self.calls if layer.float_reason is None]

    @property
    def computed(self) -> dict[str, Tensor]:
        """Weights that are computed at run time, by layer, in the order of their calls."""
        return {call.name: call.computed for call in self.calls if call.computed is not None}


def weight_names(network: nn.Module) -> dict[int, str]:
    """Layer name by ``id`` of its weight: which parameter a call uses is seen by identity, never by a name."""
    return {id(p): key.removesuffix(".weight") for key, p in network.named_parameters()}


@dataclass(frozen=True)
class LayerCall:
    """A call of one of :data:`LAYERS`, open for another input and weight."""

    func: Callable[..., Tensor]
    rest: tuple
    keywords: dict[str, Any]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's output."""
        if self.func is F.conv2d and weight.shape[1] < 8 and weight.shape[2:] == (1, 1):
            given = self.settings
            if given["stride"] in (2, (2, 2), [2, 2]) and given["padding"] in (0, (0, 0), [0, 0]):
                # torch 2.15 corrupts memory in the weight gradient of such a convolution in channels-last, on CPUs
                return F.conv2d(x[..., ::2, ::2], weight, given["bias"], groups=given["groups"])
        return self.func(x, weight, *self.rest, **self.keywords)

    @property
    def settings(self) -> dict[str, Any]:
        """Bias, stride, padding, dilation and groups (of a linear layer the bias), as given or by default."""
        defaults: dict[str, Any] = {"bias": None}
        if self.func is not F.linear:
            defaults |= {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        return defaults | dict(zip(defaults, self.rest, strict=False)) | self.keywords


def split_call(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, LayerCall]:
    """Input, weight and the rest of a call of one of :data:`LAYERS`."""
    keywords = dict(kwargs)
    x = args[0] if args else keywords.pop("input")
    weight = args[1] if len(args) > 1 else keywords.pop("weight")
    return x, weight, LayerCall(func, args[2:], keywords)


def pair(value: Any) -> tuple[int, int]:
    """What a setting means down and across: torch takes a number, or one or two of them."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


class ModuleStack:
    """Within the block, ``path`` is the name of the module whose forward is running."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.stack: list[str] = []

    @property
    def path(self) -> str:
        """Dotted name; empty for the network itself."""
        return self.stack[-1]

    def __enter__(self) -> Self:
        self._hooks = ExitStack()
        for name, module in self.network.named_modules():
            self._hooks.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
            self._hooks.callback(module.register_forward_hook(self._leave).remove)
        return self

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.stack.append(name)

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self.stack.pop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()


class _Watcher(TorchFunctionMode):
    def __init__(self, trace: Trace, network: nn.Module, modules: ModuleStack, example: Tensor) -> None:
        super().__init__()
        self.trace, self.modules, self.example = trace, modules, example
        self.names = weight_names(network)
        self.buffers = {id(b) for b in network.buffers()}
        self.seen: dict[str, Layer] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.activation: Tensor | None = None

    def _name(self, kind: str) -> str:
        owner = self.modules.path
        k = self.counts.get((kind, owner), 0)
        self.counts[kind, owner] = k + 1
        return f"{owner}#{k}" if k else owner

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in ACTIVATIONS:
            self.trace.activations.append(self._name("activation"))
            self.activation = out
        elif func is F.batch_norm and BatchNormCall(*args, **kwargs).on_images:
            self.trace.batch_norms.append(self._name("batch norm"))
        elif func in LAYERS:
            self._layer(func, *split_call(func, args, kwargs)[:2], out)
        elif func in FLOAT_LAYERS:
            name = self._name("float layer")
            self.trace.calls.append(Layer(name, "other", (), calls=1, float_reason=FLOAT_LAYERS[func]))
        return out

    def _layer(self, func: Any, x: Tensor, weight: Tensor, out: Tensor) -> None:
        name = self.names.get(id(weight))
        layer = self.seen.get(name) if name is not None else None
        if layer is None:
            computed = name is None and id(weight) not in self.buffers
            if name is None:
                name = self._name("layer")
            layer = Layer(name, LAYERS[func], tuple(weight.shape), input_shape=tuple(x.shape[1:]))
            layer.activation = self.trace.activations[-1] if x is self.activation else None
            layer.reads_image = x is self.example
            if computed:
                layer.computed = weight.detach().clone()
            elif id(weight) in self.buffers:
                layer.float_reason = "a fixed filter, not learned"
            self.seen[name] = layer
            self.trace.calls.append(layer)
        layer.calls += 1
        outputs = out.numel() // len(self.example)
        layer.outputs += outputs
        layer.multiply_adds += outputs * weight[0].numel()
        owner = self.modules.network.get_submodule(self.modules.path)
        is_layer = isinstance(owner, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
        if layer.float_reason is None:
            self.trace.classifier = self.modules.path if is_layer else None


@torch.no_grad()
def trace_network(network: nn.Module, example: Tensor) -> Trace:
    """Run ``network`` on ``example`` ``(B, C, H, W)`` and note what it calls.

    Where weights are computed at run time, a second run on another input shows whether they depend on it.
    """
    trace = _trace(network, example)
    if any(layer.computed is not None for layer in trace.calls):
        again = {layer.name: layer for layer in _trace(network, -example[:1]).calls}
        for layer in trace.calls:
            if layer.computed is None:
                continue
            other = again[layer.name].computed if layer.name in again else None
            same = other is not None and other.shape == layer.computed.shape
            if other is None or not same or not (other.is_meta or torch.equal(other, layer.computed)):
                layer.float_reason = "its weight is computed from the input"
    return trace


def _trace(network: nn.Module, example: Tensor) -> Trace:
    trace = Trace()
    with ModuleStack(network) as modules, _Watcher(trace, network, modules, example):
        trace.output = network(example)
    return trace


class FeatureTap:
    """Within the block, ``features`` is what last entered the classifier, ``(B, D)``, mean over places.

    Args:
        network: what runs.
        classifier: name of its module; None: there are no features.
    """

    features: Tensor

    def __init__(self, network: nn.Module, classifier: str | None) -> None:
        self.module = None if classifier is None else network.get_submodule(classifier)

    def __enter__(self) -> Self:
        self._hooks = ExitStack()
        if self.module is not None:
            self._hooks.callback(self.module.register_forward_pre_hook(self._read).remove)
        return self

    def _read(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if isinstance(module, nn.Linear):  # (B, ..., D)
            self.features = x.flatten(1, -2).mean(1) if x.dim() > 2 else x
        else:
            self.features = x.flatten(2).mean(2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
