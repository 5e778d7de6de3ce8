"""Batch norms done by the convolutions before them, on their way.

That is two passes less over what a convolution puts out, forward and backward, and one tensor less to keep for
gradients.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.graph.batch_norms import BatchNormCall, batch_norm_calls, slope_and_offset
from intraq_cli.graph.dataflow import Dataflow, dataflow
from intraq_cli.graph.trace import LayerCall, split_call

SAME = 0.01
"""Logits may differ by so much of the largest one: there is TF32."""


@dataclass(frozen=True)
class Norm:
    """A batch norm by the keys of its tensors in the network's state dict."""

    running_mean: str
    running_var: str
    weight: str | None
    bias: str | None
    eps: float

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Slope and offset, ``(C,)`` each, with gradients."""
        weight = None if self.weight is None else tensors[self.weight]
        bias = None if self.bias is None else tensors[self.bias]
        return slope_and_offset(tensors[self.running_mean], tensors[self.running_var], weight, bias, self.eps)


@dataclass(frozen=True)
class Folds:
    """Which calls belong together; they are counted from 0 in a forward pass."""

    norms: dict[int, Norm] = field(default_factory=dict)
    """By the call of ``F.conv2d`` whose output it alone reads."""
    done: frozenset[int] = frozenset()
    """Calls of batch norms on images that are left nothing to do."""


@torch.no_grad()
def find_folds(network: nn.Module, example: Tensor) -> Folds:
    """Run ``network``, in evaluation mode, on ``example`` ``(B, C, H, W)``, and see which batch norms can be folded.

    None, if it would not compute the same with them.
    """
    flow, plain = dataflow(network, example)
    folds = _folds(flow, {id(tensor): key for key, tensor in _tensors(network).items()})
    with folded(network, folds):
        out = network(example)
    same = (out - plain).abs().max() <= SAME * plain.abs().max()
    return folds if same else Folds()


def folded(network: nn.Module, folds: Folds) -> AbstractContextManager[Any]:
    """:class:`FoldedBatchNorms`, where there is something to fold: a step has thousands of calls to look at."""
    return FoldedBatchNorms(network, folds) if folds.done else nullcontext()


class FoldedBatchNorms(TorchFunctionMode):
    """Within the block, ``network`` runs with its batch norms folded into the convolutions before them.

    It has to be entered before whatever looks at outputs of batch norms or changes weights: then all of them see what
    they would see without it.

    Args:
        network: with the same modules as the one in which ``folds`` were found.
        folds: from :func:`find_folds`.
    """

    def __init__(self, network: nn.Module, folds: Folds) -> None:
        super().__init__()
        self.folds = folds
        self.tensors = _tensors(network)
        self.convolutions = self.batch_norms = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            self.convolutions += 1
            norm = self.folds.norms.get(self.convolutions - 1)
            if norm is not None:
                return self._convolution(norm, *split_call(func, args, kwargs))
        elif func is F.batch_norm:
            call = BatchNormCall(*args, **kwargs)
            if call.on_images:
                self.batch_norms += 1
                if self.batch_norms - 1 in self.folds.done:
                    return call.input
        return func(*args, **kwargs)

    def _convolution(self, norm: Norm, x: Tensor, weight: Tensor, call: LayerCall) -> Tensor:
        slope, offset = norm.affine(self.tensors)
        given = call.settings
        if given["bias"] is not None:
            offset = offset + slope * given["bias"]
        rest = (given[name] for name in ("stride", "padding", "dilation", "groups"))
        return F.conv2d(x, weight * slope[:, None, None, None], offset, *rest)


def _folds(flow: Dataflow, keys: Mapping[int, str]) -> Folds:
    """Those that alone read what a convolution puts out; ``keys`` of the network's tensors, by identity."""
    convolutions = {call: k for k, call in enumerate(call for call in flow.calls if call.func is F.conv2d)}
    folds: dict[int, tuple[int, Norm]] = {}
    for k, (call, given) in enumerate(batch_norm_calls(flow)):
        maker, norm = flow.maker(call, given.input), _norm(given, keys)
        if maker is None or norm is None or flow.only_reader(maker) is not call:
            continue
        # The first convolution, which reads the images, is left as it is: folded in bfloat16 it was tuned 0.5 to 1.8 dB
        # worse, and agreement on real images fell by 0.3 points (ResNet-20, W3A3); all others folded cost neither.
        if convolutions.get(maker, 0) > 0:
            folds[k] = convolutions[maker], norm
    return Folds(dict(folds.values()), frozenset(folds))


def _norm(call: BatchNormCall, keys: Mapping[int, str]) -> Norm | None:
    tensors = call.running_mean, call.running_var, call.weight, call.bias
    if any(tensor is not None and id(tensor) not in keys for tensor in tensors):
        return None  # made at run time
    mean, var, weight, bias = (None if tensor is None else keys[id(tensor)] for tensor in tensors)
    return None if mean is None or var is None else Norm(mean, var, weight, bias, call.eps)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
