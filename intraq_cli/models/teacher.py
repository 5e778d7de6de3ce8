"""The float network: its description, the input that it expects, and whether it can be quantized."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_cli.errors import ModelError, first_line
from intraq_cli.graph.batch_norms import batch_norms, norm_parameters
from intraq_cli.graph.capture import capture
from intraq_cli.graph.layers import quantizable
from intraq_cli.graph.nodes import arguments, calls, constant_nodes, draws_numbers, named_tensors, replace_tensors
from intraq_cli.graph.proof import same_logits
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.meta_build import BUILD_ERRORS
from intraq_cli.runtime.device import place
from intraq_cli.runtime.micro_batches import is_out_of_memory

aten = torch.ops.aten

PROBABILITIES = {aten.softmax.int: "softmax", aten._softmax.default: "softmax", aten.sigmoid.default: "sigmoid"}
"""Operations that turn logits into probabilities, with their names."""
DAMAGED = "check the weights: the file may be damaged"
NO_LOGITS = "give a network that returns one logit per class"


@dataclass(frozen=True)
class Teacher:
    """A pretrained classifier, frozen, in evaluation mode, and where it came from."""

    network: nn.Module
    spec: InputSpec
    source: str
    """The name as a user would write it."""
    name: str
    """Short name, for folder names."""
    architecture: str
    """How to rebuild it: timm's name, ``torchvision:NAME``, ``pytorchcv:NAME``, one of our own, ``file.py:factory``."""
    model_args: dict[str, Any] = field(default_factory=dict)
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    label_names: list[str] | None = None
    revision: str | None = None
    """The commit, if the network is from the Hub."""
    weights: str | None = None
    """The weights file, if the user gave one."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits on images, see :func:`logits_of`."""
        return logits_of(self.network, images)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights: names, types, shapes and values, in the order of the names."""
        digest = hashlib.sha256()
        for key, tensor in sorted(state_tensors(self.network).items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            dense = tensor.detach().cpu().to_dense().resolve_conj()
            values = torch.view_as_real(dense) if dense.is_complex() else dense
            digest.update(values.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits ``(B, K)`` of images ``(B, C, H, W)``; restore a batch dimension squeezed away for one image."""
    out: Tensor = network(images)
    return out[None] if out.dim() == 1 else out


def state_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state dict, without other entries (``get_extra_state``)."""
    return {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Captured:
    """A captured teacher."""

    graph: fx.GraphModule
    """Graph of the teacher's network; it shares the network's tensors."""
    num_classes: int


def check_batch_norms(teacher: Teacher) -> None:
    """Check by its modules that a network has statistics to learn images from; its weights are not needed.

    Raises:
        ModelError: it has no batch norm, or one without running statistics.
    """
    norms = [m for m in teacher.network.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    if not norms:
        raise _no_batch_norm(teacher)
    if any(m.running_mean is None for m in norms):
        raise _untracked(teacher)


def _no_batch_norm(teacher: Teacher) -> ModelError:
    hint = "images are learned from batch-norm statistics; choose a network that has them, e.g. resnet18"
    return ModelError(f"{teacher.source} has no batch norm on images (BatchNorm2d)", hint)


def _untracked(teacher: Teacher) -> ModelError:
    hint = "images are learned from these statistics; choose a network that has them"
    return ModelError(f"{teacher.source} has batch norm without running statistics (track_running_stats=False)", hint)


def is_sound(name: str, tensor: Tensor, parameter: bool) -> bool:
    """Whether a state dict's tensor is free of NaN; in parameters and running statistics, also of infinity."""
    finite = parameter or name.endswith(("running_mean", "running_var"))
    values = tensor.to_dense()  # torch has no such tests of sparse tensors
    return bool((values.isfinite() if finite else ~values.isnan()).all())


@torch.no_grad()
def check_classifier(teacher: Teacher) -> int:
    """Run the teacher once on noise, check that it is a classifier, and return its number of classes.

    Raises:
        ModelError: weights that are not finite, an unsuitable input size, no logits, or not one logit per label.
    """
    network = teacher.network
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for name, tensor in state_tensors(network).items():
        if tensor.is_floating_point() and not tensor.is_meta and not is_sound(name, tensor, name in parameters):
            raise ModelError(f"{teacher.source}: {name} contains NaN or infinite values", DAMAGED)
    try:
        out = network(example_of(teacher.spec, teacher.network))
    except BUILD_ERRORS as error:
        size, line = teacher.spec.size, first_line(error)
        raise ModelError(f"{teacher.source} fails on an input of {size}: {line}", _way_out(line)) from error
    if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[1] < 2:
        found = f"a tensor of {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(f"{teacher.source} returns {found}, not logits (batch, classes)", _way_to_logits(out))
    if getattr(network, "num_classes", None) == 0:  # timm's convention for a network without its last layer
        given = f"{out.shape[1]} features"
        raise ModelError(f"{teacher.source} has no classifier: it returns {given}, not logits", NO_LOGITS)
    labels = teacher.label_names
    if labels is not None and len(labels) != out.shape[1]:
        what = f"{teacher.source} has {len(labels)} label_names for {out.shape[1]} classes"
        raise ModelError(what, "correct label_names in config.json")
    if not out.is_meta and not out.isfinite().all():
        raise ModelError(f"{teacher.source} returns NaN or infinite logits on noise", DAMAGED)
    return out.shape[1]


def _way_out(line: str) -> str:
    """Return a hint for an error that torch raised when the network ran in float32."""
    if "positional argument" in line:
        return "give a network whose forward needs the images only"
    if re.search(r"\bd?type\b", line):
        return "remove casts (half, double) and layers of other types from its forward: all weights are float32 here"
    return "set --input-size C,H,W"


def _way_to_logits(out: Any) -> str:
    """Return a hint for a network that returns its logits among other outputs, or in another shape."""
    ways: dict[str, Any] = {}
    if isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] == 1:
        return "wrap it in a module whose forward makes two classes of its logit x: torch.cat([-x, x], 1)"
    if isinstance(out, Tensor):
        ways["network(x).flatten(1)"] = out.flatten(1) if out.dim() > 2 and out[0].numel() == out.shape[1] else None
    elif isinstance(out, Mapping):
        ways = {f"network(x)[{key!r}]": out[key] for key in sorted(out, key=lambda key: key != "logits")}
    elif isinstance(out, (tuple, list)):
        ways = {f"network(x)[{k}]": one for k, one in enumerate(out)}
    else:
        ways["network(x).logits"] = getattr(out, "logits", None)
    for way, found in ways.items():
        if isinstance(found, Tensor) and found.dim() == 2:
            return f"wrap it in a module whose forward returns {way}"
    return NO_LOGITS


def example_of(spec: InputSpec, network: nn.Module) -> Tensor:
    """Return two images of noise, ``(2, C, H, W)``, on the network's device; on zeros some networks divide by zero."""
    example = torch.randn(2, *spec.input_size, generator=torch.Generator().manual_seed(0))
    return example.to(next(network.parameters(), example).device)


def place_teacher(teacher: Teacher, device: torch.device | str) -> None:
    """Move the teacher to ``device``, in a memory layout that its code supports."""
    place(teacher.network, device, example_of(teacher.spec, teacher.network))


def place_classifier(teacher: Teacher, device: torch.device | str) -> int:
    """Move the teacher to ``device``, check it there by :func:`check_classifier`, and return its number of classes."""
    place_teacher(teacher, device)
    return check_classifier(teacher)


def capture_teacher(teacher: Teacher) -> Captured:
    """Capture the graph of a teacher that is on the CPU, and check that it can be quantized.

    Raises:
        ModelError: it is not a classifier, cannot be captured, or has no batch norm or no layer to quantize.
    """
    num_classes = check_classifier(teacher)
    try:
        graph = capture(teacher.network, example_of(teacher.spec, teacher.network))
    except ModelError as error:
        raise ModelError(f"{teacher.source}: {error.message}", error.hint) from error
    if not batch_norms(graph):
        nodes = set(calls(graph, aten.batch_norm.default)) - constant_nodes(graph)
        untracked = any(arguments(node)["running_mean"] is None for node in nodes)
        raise _untracked(teacher) if untracked else _no_batch_norm(teacher)
    if not quantizable(graph):
        raise ModelError(f"{teacher.source} calls no convolution or linear layer: nothing to quantize")
    return Captured(graph, num_classes)


def captured_on_device(captured: Captured, teacher: Teacher, device: torch.device) -> Captured:
    """Move ``teacher`` and its captured graph to ``device``; they share their tensors there as well.

    Graphs are always captured on the CPU, also when a checkpoint is loaded: torch.export records other operations for a
    GPU.

    Raises:
        ModelError: the network does not run there, or computes something else.
    """
    network = teacher.network.to(device)
    own = named_tensors(network)
    graph = replace_tensors(captured.graph, lambda key, tensor: own[key] if key in own else tensor.to(device))
    try:
        alike = draws_numbers(graph) or same_logits(network, graph, example_of(teacher.spec, teacher.network))
    except BUILD_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{teacher.source} runs on a CPU, but not on {device.type}: {first_line(error)}",
            "use --device cpu, or register its other tensors as buffers: only parameters and buffers are moved",
        ) from error
    if not alike:
        raise ModelError(
            f"{teacher.source} does not compute the same on {device.type} as on a CPU",
            "use --device cpu: checkpoints have to run on CPUs too",
        )
    return replace(captured, graph=graph)


def doubts(captured: Captured) -> list[str]:
    """Return warnings about a network's logits or statistics that do not prevent its quantization."""
    found = []
    if draws_numbers(captured.graph):
        found.append(
            "the network draws random numbers as it runs (is a dropout always on?): no two results are the same"
        )
    end = captured.graph.graph.output_node().args[0]
    if isinstance(end, fx.Node) and end.target in PROBABILITIES:
        found.append(
            f"the network ends in a {PROBABILITIES[end.target]}: its probabilities are taken as logits, so that "
            "divergences and losses say less; give the network without it"
        )
    norms = norm_parameters(captured.graph)
    fresh = [norm for norm in norms if not norm.running_mean.any() and (norm.running_var == 1).all()]
    if fresh:
        which = "all" if len(fresh) == len(norms) else f"{len(fresh)} of {len(norms)}"
        found.append(
            f"{which} batch norms have the statistics of an untrained network (mean 0, variance 1): images are learned "
            "only from these"
        )
    return found
