"""The float network: what it is, how it wants its input, and whether it can be quantized at all."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from intraq_cli.errors import ModelError, first_line
from intraq_cli.graph.trace import Trace, trace_network
from intraq_cli.models.meta_build import BUILD_ERRORS

MAX_SIDE = 2048
"""Pixels; timm's largest input has 1024."""
MAX_VALUES = 2**24
"""Of one image: channels by height by width."""


@dataclass(frozen=True)
class InputSpec:
    """How a network wants its images; the keys of timm's ``pretrained_cfg``."""

    input_size: tuple[int, int, int]
    """(C, H, W)."""
    mean: tuple[float, ...]
    """Per channel, for pixels in [0, 1]."""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        c = self.input_size[0]
        if max(self.input_size[1:]) > MAX_SIDE or math.prod(self.input_size) > MAX_VALUES:
            size = ",".join(map(str, self.input_size))
            raise ModelError(f"an input of {size} is too large", f"at most {MAX_SIDE} pixels a side")
        if len(self.mean) != c or len(self.std) != c:
            raise ModelError(
                f"{c} input channels, but {len(self.mean)} means and {len(self.std)} standard deviations",
                "give --mean and --std one number per channel",
            )
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if min(self.input_size) < 1 or not finite or not all(s > 0 for s in self.std):
            raise ModelError("input sizes and standard deviations must be positive, and all numbers finite")

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Normalised value of a black and of a white pixel, ``(C,)`` each."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (0 - mean) / std, (1 - mean) / std

    def to_pixels(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, C, H, W)`` back to [0, 1], clipped."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return (images * std + mean).clamp(0, 1)


@dataclass(frozen=True)
class Teacher:
    """A pretrained classifier, frozen, in evaluation mode, and where it came from."""

    network: nn.Module
    spec: InputSpec
    source: str
    """As the user could spell it again."""
    name: str
    """Short, for folder names."""
    architecture: str
    """What rebuilds it: timm's name, ``torchvision:NAME``, ``pytorchcv:NAME``, one of our own, ``file.py:factory``."""
    model_args: dict[str, Any] = field(default_factory=dict)
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    label_names: list[str] | None = None
    revision: str | None = None
    """The Hub's commit, where it came from there."""
    weights: str | None = None
    """The file that the user gave weights in."""

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights: names, types, shapes and values, in the order of the names."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Anatomy:
    """What a look at a teacher found out."""

    trace: Trace
    num_classes: int

    @property
    def classifier(self) -> str | None:
        """Name of the module that the pooled features enter; None where they enter none."""
        return self.trace.classifier


@torch.no_grad()
def leave_inputs_alone(network: nn.Module, example: Tensor) -> None:
    """Have activations write their output into memory of its own, where that changes nothing.

    Learning has to copy what ReLU6, SiLU and their like overwrite before they do.
    """
    in_place: list[Any] = [module for module in network.modules() if getattr(module, "inplace", None) is True]
    if not in_place or example.is_meta:
        return
    before = network(example.clone())
    for module in in_place:
        module.inplace = False
    if not _same(before, network(example.clone())):  # somebody reads the overwritten input
        for module in in_place:
            module.inplace = True


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def check_batch_norms(teacher: Teacher) -> None:
    """Refuse a network without statistics to learn from; its weights need not be there.

    Raises:
        ModelError: no batch norm, or none with running statistics.
    """
    norms = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        raise ModelError(
            f"{teacher.source} has no batch norm (BatchNorm2d)",
            "images are learned from batch-norm statistics; choose a network that has them, e.g. resnet18",
        )
    if any(m.running_mean is None for m in norms):
        raise ModelError(
            f"{teacher.source} has batch norm without running statistics (track_running_stats=False)",
            "images are learned from these statistics; choose a network that has them",
        )


def examine(teacher: Teacher, strict: bool = True) -> Anatomy:
    """Run the teacher once on noise and check that it can be quantized (``strict``), or that it is a classifier at all.

    Where it is to be learned from (``strict``), its activations then no longer work in place.

    Raises:
        ModelError: no batch norm, no layer to quantize, weights that are not finite, an input that does not fit, no
            logits.
    """
    network = teacher.network
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            raise ModelError(f"{teacher.source}: {name} holds NaN or infinite values", "the file may be damaged")
    if strict:
        check_batch_norms(teacher)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, *teacher.spec.input_size, generator=generator).to(next(network.parameters()).device)
    try:
        if strict:
            leave_inputs_alone(network, example)
        trace = trace_network(network, example)
    except BUILD_ERRORS as error:
        size = ",".join(map(str, teacher.spec.input_size))
        line = first_line(error)
        raise ModelError(f"{teacher.source} does not run on input {size}: {line}", "set --input-size C,H,W") from error
    if not isinstance(trace.output, Tensor) or trace.output.dim() != 2 or trace.output.shape[1] < 2:
        shape = tuple(trace.output.shape) if isinstance(trace.output, Tensor) else type(trace.output).__name__
        raise ModelError(f"{teacher.source} returns {shape}, not logits (batch, classes)", "give a classifier")
    if getattr(network, "num_classes", None) == 0:  # timm's word for a network without its last layer
        given = f"{trace.output.shape[1]} features"
        raise ModelError(f"{teacher.source} has no classifier: it returns {given}, not logits", "give a classifier")
    if not trace.output.is_meta and not trace.output.isfinite().all():
        raise ModelError(f"{teacher.source} returns NaN or infinite logits on noise", "the file may be damaged")
    if strict and not trace.layers:
        raise ModelError(f"{teacher.source} calls no convolution or linear layer: nothing to quantize")
    if strict and not trace.batch_norms:
        raise ModelError(f"{teacher.source} never calls its batch norms in evaluation mode")
    return Anatomy(trace, trace.output.shape[1])
