"""Reads a checkpoint folder and rebuilds the quantized network, without unpickling anything."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from intraq_cli.checkpoint.config import read_config, read_plan
from intraq_cli.checkpoint.keys import float_names, grid_keys, site_prefix, weight_keys
from intraq_cli.checkpoint.layout import stored_quantizers, stored_tensors
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import GET_AGAIN, CheckpointError, ModelError, first_line
from intraq_cli.graph.capture import capture
from intraq_cli.graph.fingerprint import is_other_code
from intraq_cli.graph.layers import quantizable
from intraq_cli.graph.nodes import replace_tensors, unnumbered
from intraq_cli.io.untrusted import TensorInfo, safe_path, tensor_header
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.config import ModelConfig, check_config, spec_of_config
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.meta_build import BUILD_ERRORS, build_on_meta, check_tensors
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import example_of, is_sound, place_teacher
from intraq_cli.quantization.integer_arithmetic import compute_on_integers
from intraq_cli.quantization.network import QuantizedNetwork, dequantize
from intraq_cli.quantization.packing import unpack
from intraq_cli.quantization.plan import Plan, form_of
from intraq_cli.quantization.quantizers import FixedWeight
from intraq_cli.quantization.sites import activation_sites
from intraq_cli.runtime.device import place

FOLDED_WEIGHT = re.compile(r"\.weight(_folded)+$")
"""Key of a weight with a folded batch norm, if other nodes also read the original weight, which keeps its own key."""
SAME_CODE = "give the code that it was made from: --model file.py:factory"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    network: QuantizedNetwork
    spec: InputSpec
    config: dict[str, Any]
    run: dict[str, Any]
    """The manifest; empty if there is none."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return int(self.config["num_classes"])

    @property
    def label_names(self) -> list[str] | None:
        """A name for every class, if the teacher had names."""
        return self.config.get("label_names")


def read_checkpoint(folder: Path, model: Source | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """Rebuild the network of a checkpoint folder.

    Args:
        folder: the folder that ``quantize`` wrote.
        model: the ``file.py:factory`` or module that the checkpoint was made from, if so: it does not store code.
        device: device for the network.

    Raises:
        CheckpointError: the folder is not a checkpoint, or the checkpoint is damaged.
        ModelError: the architecture cannot be built, or ``model`` is needed.
    """
    config = read_config(folder)
    checked = check_config(config, f"{folder}: config.json", CheckpointError)
    plan = read_plan(folder, config)
    spec = spec_of_config(checked.pretrained_cfg, f"{folder}: config.json: pretrained_cfg", CheckpointError)
    run = read_run(folder)
    weights = safe_path(folder, "model.safetensors", CheckpointError)
    header = tensor_header(weights, CheckpointError)
    graph = _float_graph(folder, checked, plan, spec, model, header)
    _check_code(folder, config, graph)
    quantized = _quantized(folder, graph, plan, header)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot read model.safetensors: {error}", GET_AGAIN) from error
    _restore(quantized, tensors, folder)
    place(quantized.eval().requires_grad_(False), device)
    compute_on_integers(quantized)
    return Checkpoint(quantized, spec, config, run)


def _float_graph(
    folder: Path, config: ModelConfig, plan: Plan, spec: InputSpec, model: Source | None, header: dict[str, TensorInfo]
) -> fx.GraphModule:
    """Capture the float network that the config describes; its tensors may be on the meta device."""

    def build() -> nn.Module:
        return build_architecture(config.architecture, config.num_classes, config.model_args)

    if needs_code(config.architecture):
        if model is None or not model.needs_code:
            raise ModelError(f"{folder} was made from {config.architecture} and contains no code", SAME_CODE)
        teacher = model.taking(spec).load()
        place_teacher(teacher, "cpu")  # as when it was captured: its code may depend on the memory layout
        return _captured(folder, teacher.network, config, plan, spec)
    described = build_on_meta(build, header, CheckpointError).eval()
    try:
        return _captured(folder, described, config, plan, spec)
    except _NotOnMetaError:  # some networks read tensor values as they run, and meta tensors have none
        return _captured(folder, build().eval(), config, plan, spec)


class _NotOnMetaError(Exception):
    """A network cannot be captured on the meta device, but perhaps with real tensors."""


def _captured(folder: Path, network: nn.Module, config: ModelConfig, plan: Plan, spec: InputSpec) -> fx.GraphModule:
    """Capture the graph of ``network``.

    Raises:
        CheckpointError: the network does not accept the input in the config, or has other layer names or classes.
    """
    hint = SAME_CODE if needs_code(config.architecture) else GET_AGAIN
    _check_names(folder, network, plan, hint)
    example = example_of(spec, network)
    network.requires_grad_(False)
    try:
        graph = capture(network, example)
    except (*BUILD_ERRORS, ModelError) as error:
        if example.is_meta:
            raise _NotOnMetaError from error
        line = first_line(error)
        raise CheckpointError(f"{folder}: the network fails on an input of {spec.size}: {line}", hint) from error
    logits = graph.graph.output_node().args[0]
    if not isinstance(logits, fx.Node) or logits.meta.get("shape") != (1, config.num_classes):
        raise CheckpointError(f"{folder}: the network does not return {config.num_classes} logits", hint)
    return graph


def _check_code(folder: Path, config: dict[str, Any], graph: fx.GraphModule) -> None:
    """Refuse code that computes something other than the code that a checkpoint was made from.

    Raises:
        CheckpointError: an operation, its settings or a number in the code is different.
    """
    if is_other_code(config["quantization_config"].get("code"), graph):
        raise CheckpointError(
            f"{folder}: the network of --model differs, in its operations or in numbers in its code, from the one that "
            "the checkpoint was made from",
            f"{SAME_CODE}, or quantize again",
        )


def _quantized(folder: Path, graph: fx.GraphModule, plan: Plan, header: dict[str, TensorInfo]) -> QuantizedNetwork:
    """Insert quantizers without values into ``graph``, and check the tensors against the header.

    Raises:
        CheckpointError: layers or tensors do not match.
    """
    graph = form_of(graph, plan.placement)
    known = {layer.name: layer for layer in quantizable(graph)}
    sites = activation_sites(graph, plan.placement)
    for name in (plan.weights.keys() - known.keys()) | (plan.activations.keys() - sites.keys()):
        raise CheckpointError(f"{folder}/config.json: the network has no layer {name!r}", GET_AGAIN)
    quantized = QuantizedNetwork(graph, plan)
    check_tensors(header, stored_tensors(quantized, header), str(folder), CheckpointError)
    return quantized


def _check_names(folder: Path, network: nn.Module, plan: Plan, hint: str) -> None:
    """Refuse most networks that do not match the plan before capturing them, which takes a while.

    Raises:
        CheckpointError: a layer's name in the plan is not that of a module or tensor.
    """
    known = {"network"}  # see graph.layers
    for named in (network.named_parameters, network.named_buffers, network.named_modules):
        known |= {name for name, _ in named(remove_duplicate=False)}
    for name in plan.weights:
        stems = {FOLDED_WEIGHT.sub("", part) for part in (name, unnumbered(name)[0])}
        if not known & {*stems, *(f"{stem}.weight" for stem in stems)}:
            raise CheckpointError(f"{folder}/config.json: the network has no layer {name!r}", hint)


def _restore(quantized: QuantizedNetwork, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill ``quantized`` with ``tensors``, whose names, shapes and types are already checked.

    Raises:
        CheckpointError: their values are not valid.
    """

    def refuse(what: str) -> NoReturn:
        raise CheckpointError(f"{folder}: model.safetensors: {what}", GET_AGAIN)

    names = float_names(quantized.float_tensors, stored_quantizers(quantized))
    for name, bits in quantized.plan.weights.items():
        key, shape = quantized.weight_keys[name], quantized.weights[name].weight.shape
        words, scale, zeros, stated = map(tensors.pop, weight_keys(key))
        if stated.tolist() != list(shape):
            refuse(f"the weight of {name} has the wrong shape")
        codes = unpack(words, bits, shape[1:].numel()).view(shape)
        zero_point = unpack(zeros.T, bits, shape[0])[0].to(scale.dtype)
        weight = dequantize(codes, scale[:, 0], zero_point)
        if not (scale > 0).all() or not weight.isfinite().all():
            refuse(f"the scales of {name} are not positive and finite")
        quantized.set_weight(name, FixedWeight(weight, scale[:, 0]))
    for site, quantizer in quantized.activation_quantizers.items():
        prefix = site_prefix(quantized.plan, site)
        scale, zero_point = map(tensors.pop, grid_keys(prefix))
        if not 0 < scale < math.inf or int(zero_point) >= 2**quantizer.bits:
            refuse(f"the scale of {prefix} is not positive and finite, or its zero-point is out of range")
        quantizer.set_grid(scale, zero_point.to(scale.dtype))
    for key, held in quantized.float_tensors.items():
        tensor = tensors[names[key]]
        numbers = tensor.is_floating_point() or tensor.is_complex()
        if numbers and not is_sound(key, tensor, isinstance(held, nn.Parameter)):
            refuse(f"{key} contains NaN or infinite values")
    # copied, and so aligned in memory: sums of a matrix product depend on the alignment of its operands
    quantized.body = replace_tensors(
        quantized.graph, lambda key, tensor: tensors[names[key]].to(tensor.dtype, copy=True)
    )
