"""The checkpoint folder: what is needed to run the quantized network, and nothing that is unpickled."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intraq_cli.checkpoint.packing import pack, packed_words, unpack
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import CheckpointError, ModelError, first_line
from intraq_cli.io.atomic import plain
from intraq_cli.io.untrusted import TensorInfo, read_json, safe_path, tensor_header
from intraq_cli.models.config import ModelConfig, check_config, is_class_count, spec_of_config
from intraq_cli.models.meta_build import BUILD_ERRORS, build_on_meta, check_tensors, info_of
from intraq_cli.models.source import InputOverride, build_architecture, is_factory, load_teacher
from intraq_cli.models.teacher import InputSpec, Teacher
from intraq_cli.quantization.network import Plan, QuantizedNetwork, dequantize
from intraq_cli.runtime.device import place

FORMAT_VERSION = 1
SUFFIX = {"inputs": "input", "activations": "output"}
"""What an activation's tensors are called behind the name of its site."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, rebuilt."""

    network: QuantizedNetwork
    spec: InputSpec
    config: dict[str, Any]
    run: dict[str, Any]
    """The manifest; empty where there is none."""

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.config["num_classes"])

    @property
    def label_names(self) -> list[str] | None:
        """A name for every class, where the teacher had them."""
        return self.config.get("label_names")


def checkpoint_tensors(
    network: QuantizedNetwork, stored: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds: packed weights, grids, and everything else under the teacher's own keys.

    Args:
        network: frozen.
        stored: what :meth:`QuantizedNetwork.freeze` returned.
    """
    keys = {name: network.weight_key(name) for name in stored}
    aliases = _aliases(network.network)
    quantized = {alias for key in keys.values() for alias in aliases.get(key, [key])}
    tensors = {k: v for k, v in network.network.state_dict().items() if k not in quantized}
    for name, (codes, scale, zero_point) in stored.items():
        key, bits = keys[name], network.plan.weights[name]
        tensors[f"{key}_packed"] = pack(codes.flatten(1), bits)
        tensors[f"{key}_scale"] = scale[:, None]
        # packed along the channels, as compressed-tensors does it
        tensors[f"{key}_zero_point"] = pack(zero_point.to(torch.uint8)[None], bits).T
        tensors[f"{key}_shape"] = torch.tensor(codes.shape)
    for site, quantizer in network.sites.items():
        prefix = _site_prefix(network.plan, site)
        tensors[f"{prefix}_scale"] = quantizer.scale
        tensors[f"{prefix}_zero_point"] = quantizer.zero_point.to(torch.uint8)
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


def _aliases(network: nn.Module) -> dict[str, list[str]]:
    """For each key, all keys of the same parameter: layers may share a weight."""
    same: dict[int, list[str]] = {}
    for key, parameter in network.named_parameters(remove_duplicate=False):
        same.setdefault(id(parameter), []).append(key)
    return {key: keys for keys in same.values() for key in keys}


def _site_prefix(plan: Plan, site: str) -> str:
    return f"{site}.{SUFFIX[plan.placement]}".lstrip(".")  # a call in the network's own forward has an empty name


def checkpoint_config(teacher: Teacher, num_classes: int, plan: Plan, w_bits: int, a_bits: int) -> dict[str, Any]:
    """``config.json``: timm's keys, and how the network is quantized."""
    spec = teacher.spec
    config: dict[str, Any] = {
        "architecture": teacher.architecture,
        "num_classes": num_classes,
        "model_args": teacher.model_args,
        "pretrained_cfg": {**teacher.pretrained_cfg, **vars(spec)},
    }
    if teacher.label_names:
        config["label_names"] = teacher.label_names
    config["quantization_config"] = {
        "quant_method": "intraq",
        "format_version": FORMAT_VERSION,
        "weights": {"bits": w_bits, "granularity": "channel", "symmetric": False},
        "activations": {"bits": a_bits, "granularity": "tensor", "symmetric": False, "placement": plan.placement},
        "modules": plan.weights,
        "sites": plan.activations,
        **({"computed": {name: list(shape) for name, shape in plan.computed.items()}} if plan.computed else {}),
    }
    return config


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> int:
    """Write ``model.safetensors``; returns its bytes."""
    # one entry of metadata: the order of several would differ from run to run
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``config.json`` or ``run.json``."""
    path.write_text(json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` looks like a checkpoint of ours (as against a float model's folder).

    Raises:
        CheckpointError: its ``config.json`` cannot be read.
    """
    if not os.path.isfile(folder / "config.json"):
        return False
    return "quantization_config" in read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)


def read_checkpoint(folder: Path, model: str | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """Rebuild the network of a checkpoint folder.

    Args:
        folder: what ``quantize`` wrote.
        model: the ``file.py:factory`` again, for a checkpoint that was made from one: it holds no code.
        device: where to put the network.

    Raises:
        CheckpointError: the folder is no checkpoint, or a damaged one.
        ModelError: the architecture cannot be built, or ``model`` is needed.
    """
    config = _read_config(folder)
    checked = check_config(config, str(folder), CheckpointError)
    plan = _read_plan(folder, config)
    spec = spec_of_config(checked.pretrained_cfg, str(folder), CheckpointError)
    run = read_run(folder)
    weights = safe_path(folder, "model.safetensors", CheckpointError)
    header = tensor_header(weights, CheckpointError)
    quantized = QuantizedNetwork(_float_network(folder, checked, plan, spec, model, header), plan)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot read model.safetensors: {error}", "fetch or make it again") from error
    _restore(quantized, tensors, folder)
    place(quantized.eval().requires_grad_(False), device)
    return Checkpoint(quantized, spec, config, run)


def _float_network(
    folder: Path, config: ModelConfig, plan: Plan, spec: InputSpec, model: str | None, header: dict[str, TensorInfo]
) -> nn.Module:
    """The network that is quantized, its weights not yet read; it fits the file's ``header``."""

    def build() -> nn.Module:
        return build_architecture(config.architecture, config.num_classes, config.model_args)

    if is_factory(config.architecture):
        if model is None or not is_factory(model):
            raise ModelError(
                f"{folder} was made from {config.architecture} and holds no code",
                "name it again: --model file.py:factory",
            )
        network = load_teacher(model, InputOverride(spec.input_size, spec.mean, spec.std)).network
        _check_fit(folder, network, plan, header)
        _check_run(folder, QuantizedNetwork(network, plan), config, spec)
        return network
    described = build_on_meta(build, header, CheckpointError).eval()
    _check_fit(folder, described, plan, header)
    network = build().eval()
    try:
        with torch.device("meta"):
            _check_run(folder, QuantizedNetwork(described, plan), config, spec)
    except CheckpointError:  # there are networks that look at values as they run; the meta device has none
        _check_run(folder, QuantizedNetwork(network, plan), config, spec)
    return network


@torch.no_grad()
def _check_run(folder: Path, quantized: QuantizedNetwork, config: ModelConfig, spec: InputSpec) -> None:
    """See that the network takes the input that the config speaks of, and gives logits of its classes.

    Raises:
        CheckpointError: it does not.
    """
    size = ",".join(map(str, spec.input_size))
    try:
        out = quantized(torch.zeros(1, *spec.input_size))
    except BUILD_ERRORS as error:
        line = first_line(error)
        raise CheckpointError(
            f"{folder}: the network does not run on input {size}: {line}", "fetch it again"
        ) from error
    if not isinstance(out, Tensor) or out.shape != (1, config.num_classes):
        raise CheckpointError(f"{folder}: the network does not return {config.num_classes} logits", "fetch it again")


def _read_config(folder: Path) -> dict[str, Any]:
    hint = "a checkpoint folder is what `intraq quantize` writes"
    if not os.path.isfile(folder / "config.json"):
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json", hint)
    config = read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "intraq":
        raise CheckpointError(f"{folder} is no intraq checkpoint", hint)
    version = quantization.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {version!s:.20}, this intraq reads {FORMAT_VERSION}", "update intraq"
        )
    for key, fits in {"num_classes": is_class_count, "pretrained_cfg": lambda cfg: isinstance(cfg, dict)}.items():
        if not fits(config.get(key)):
            raise CheckpointError(f"{folder}/config.json lacks {key}", hint)
    return config


def _read_plan(folder: Path, config: dict[str, Any]) -> Plan:
    quantization = config["quantization_config"]
    activations = quantization.get("activations")
    placement = activations.get("placement") if isinstance(activations, dict) else None
    modules, sites, computed = (quantization.get(key, {}) for key in ("modules", "sites", "computed"))
    for key, table in {"modules": modules, "sites": sites, "computed": computed}.items():
        if not isinstance(table, dict):
            raise CheckpointError(f"{folder}/config.json: quantization_config lacks {key}", "fetch it again")
    bits = [*modules.values(), *sites.values()]
    if placement not in ("inputs", "activations") or not all(type(b) is int and 2 <= b <= 8 for b in bits):
        raise CheckpointError(f"{folder}/config.json: bits must be 2 to 8, placement inputs or activations")
    if placement == "inputs" and not sites.keys() <= modules.keys():
        raise CheckpointError(f"{folder}/config.json: an activation is quantized before a layer that is not")
    if not all(_is_weight_shape(shape) for shape in computed.values()):
        raise CheckpointError(f"{folder}/config.json: computed must hold the shapes of weights")
    return Plan(placement, modules, sites, {name: tuple(shape) for name, shape in computed.items()})


def _is_weight_shape(shape: Any) -> bool:
    fits = isinstance(shape, list) and 2 <= len(shape) <= 5 and all(type(n) is int and 0 < n < 2**31 for n in shape)
    return fits and math.prod(shape) < 2**40


def _check_fit(folder: Path, network: nn.Module, plan: Plan, header: dict[str, TensorInfo]) -> None:
    """See that the plan's names are the network's, and the file's tensors those of both; nothing of it is read.

    Raises:
        CheckpointError: they are not.
    """
    _check_names(folder, network, plan)
    with torch.device("meta"):
        quantized = QuantizedNetwork(network, plan)
    expected: dict[str, TensorInfo] = {}
    aliases = _aliases(network)
    present: set[str] = set()
    for name, bits in plan.weights.items():
        key, shape = quantized.weight_key(name), quantized.weight_of(name).shape
        if key in present or len(shape) < 2 or 0 in shape:
            raise CheckpointError(f"{folder}/config.json: {name} is no layer of its own", "fetch it again")
        rows, row = shape[0], math.prod(shape[1:])
        expected[f"{key}_packed"] = TensorInfo("I32", (rows, packed_words(row, bits)))
        expected[f"{key}_scale"] = TensorInfo("F32", (rows, 1))
        expected[f"{key}_zero_point"] = TensorInfo("I32", (packed_words(rows, bits), 1))
        expected[f"{key}_shape"] = TensorInfo("I64", (len(shape),))
        present.update(aliases.get(key, [key]))
    for site in plan.activations:
        prefix = _site_prefix(plan, site)
        expected[f"{prefix}_scale"] = TensorInfo("F32", ())
        expected[f"{prefix}_zero_point"] = TensorInfo("U8", ())
    for key, tensor in network.state_dict().items():
        if key not in present:
            expected[key] = info_of(tensor, header.get(key))
    check_tensors(header, expected, str(folder), CheckpointError)


def _check_names(folder: Path, network: nn.Module, plan: Plan) -> None:
    """Names are those of modules, with ``#k`` behind them where one makes several calls, or of parameters."""
    modules = {name for name, _ in network.named_modules(remove_duplicate=False)}
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name in [*plan.weights, *plan.activations, *plan.computed]:
        known = name.partition("#")[0] in modules or name in parameters
        if name in plan.weights and name not in plan.computed:
            known = name in parameters or f"{name}.weight" in parameters
        if not known:
            raise CheckpointError(f"{folder}/config.json: the network has no layer {name!r}", "fetch it again")


def _restore(quantized: QuantizedNetwork, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill ``quantized`` with ``tensors``, whose names, shapes and types fit it.

    Raises:
        CheckpointError: their values make no sense.
    """

    def refuse(what: str) -> NoReturn:
        raise CheckpointError(f"{folder}: model.safetensors: {what}", "fetch it again")

    for name, bits in quantized.plan.weights.items():
        key, weight = quantized.weight_key(name), quantized.weight_of(name)
        shape = weight.shape
        words, scale = tensors.pop(f"{key}_packed"), tensors.pop(f"{key}_scale")
        zeros, stated = tensors.pop(f"{key}_zero_point"), tensors.pop(f"{key}_shape")
        if stated.tolist() != list(shape):
            refuse(f"the weight of {name} has another shape")
        codes = unpack(words, bits, shape[1:].numel()).view(shape)
        zero_point = unpack(zeros.T, bits, shape[0])[0].to(scale.dtype)
        weight.data.copy_(dequantize(codes, scale[:, 0], zero_point))
        if not (scale > 0).all() or not weight.isfinite().all():
            refuse(f"the scales of {name} are not positive and finite")
    for site, quantizer in quantized.sites.items():
        prefix = _site_prefix(quantized.plan, site)
        scale, zero_point = tensors.pop(f"{prefix}_scale"), tensors.pop(f"{prefix}_zero_point")
        if not 0 < scale < math.inf or int(zero_point) >= 2**quantizer.bits:
            refuse(f"the scale of {prefix} is not one positive number, or its zero-point is off the grid")
        quantizer.set_grid(scale, zero_point.to(scale.dtype))
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            refuse(f"{key} holds NaN or infinite values")
    quantized.network.load_state_dict(tensors, strict=False)
