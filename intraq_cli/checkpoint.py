"""The checkpoint folder: what is needed to run the quantized network, and nothing that is unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intraq_cli.device import place
from intraq_cli.errors import CheckpointError, ModelError
from intraq_cli.output import plain
from intraq_cli.quantization.network import Plan, QuantizedNetwork, dequantize
from intraq_cli.quantization.packing import pack, packed_words, unpack
from intraq_cli.sources import InputOverride, build_architecture, is_factory, load_teacher, spec_of_config
from intraq_cli.teacher import InputSpec, Teacher

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


def checkpoint_tensors(
    network: QuantizedNetwork, stored: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds: packed weights, grids, and everything else under the teacher's own keys.

    Args:
        network: frozen.
        stored: what :meth:`QuantizedNetwork.freeze` returned.
    """
    keys = {name: network.weight_key(name) for name in stored}
    quantized = {alias for key in keys.values() for alias in _aliases(network.network, key)}
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


def _aliases(network: nn.Module, key: str) -> list[str]:
    """All keys of the parameter at ``key``: layers may share a weight."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return [k for k, p in parameters.items() if p is parameters.get(key)] or [key]


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
    """Whether ``folder`` looks like a checkpoint of ours (as against a float model's folder)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


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
    plan = _read_plan(folder, config)
    architecture = config["architecture"]
    if is_factory(architecture):
        if model is None or not is_factory(model):
            raise ModelError(
                f"{folder} was made from {architecture} and holds no code", "name it again: --model file.py:factory"
            )
        network = load_teacher(model, _override(config)).network
    else:
        network = build_architecture(architecture, config["num_classes"], config.get("model_args") or {})
    spec = spec_of_config(config["pretrained_cfg"], str(folder))
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot read model.safetensors: {error}", "fetch or make it again") from error
    quantized = QuantizedNetwork(network, plan)
    try:
        _restore(quantized, tensors)
    except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{folder}: model.safetensors does not fit config.json: {line}", "fetch it again"
        ) from error
    place(quantized.eval().requires_grad_(False), device)
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        run = {}
    return Checkpoint(quantized, spec, config, run if isinstance(run, dict) else {})


def _override(config: dict[str, Any]) -> InputOverride:

    cfg = config["pretrained_cfg"]
    return InputOverride(tuple(cfg["input_size"]), tuple(cfg["mean"]), tuple(cfg["std"]))


def _read_config(folder: Path) -> dict[str, Any]:
    hint = "a checkpoint folder is what `intraq quantize` writes"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json", hint)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}", hint) from error
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "intraq":
        raise CheckpointError(f"{folder} is no intraq checkpoint", hint)
    version = quantization.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {version}, this intraq reads {FORMAT_VERSION}", "update intraq"
        )
    wanted = {"architecture": str, "num_classes": int, "pretrained_cfg": dict}
    for key, kind in wanted.items():
        if not isinstance(config.get(key), kind):
            raise CheckpointError(f"{folder}/config.json lacks {key}", hint)
    return config


def _read_plan(folder: Path, config: dict[str, Any]) -> Plan:
    quantization = config["quantization_config"]
    try:
        placement = quantization["activations"]["placement"]
        modules, sites = quantization["modules"], quantization["sites"]
        bits = [*modules.values(), *sites.values()]
        computed = {name: tuple(shape) for name, shape in quantization.get("computed", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/config.json: quantization_config lacks {error}") from error
    if placement not in SUFFIX or not all(type(b) is int and 2 <= b <= 8 for b in bits):
        raise CheckpointError(f"{folder}/config.json: bits must be 2 to 8, placement inputs or activations")
    return Plan(placement, modules, sites, computed)


def _restore(quantized: QuantizedNetwork, tensors: dict[str, Tensor]) -> None:
    present: set[str] = set()
    for name, bits in quantized.plan.weights.items():
        key, weight = quantized.weight_key(name), quantized.weight_of(name)
        shape = weight.shape
        words, scale = tensors.pop(f"{key}_packed"), tensors.pop(f"{key}_scale")
        zeros, stated = tensors.pop(f"{key}_zero_point"), tensors.pop(f"{key}_shape")
        row = shape[1:].numel()
        expected = [(shape[0], packed_words(row, bits)), (shape[0], 1), (packed_words(shape[0], bits), 1)]
        if tuple(stated.tolist()) != shape or [tuple(t.shape) for t in (words, scale, zeros)] != expected:
            raise ValueError(f"the weight of {name} has another shape")
        codes = unpack(words, bits, row).view(shape)
        zero_point = unpack(zeros.T, bits, shape[0])[0].to(scale.dtype)
        weight.data.copy_(dequantize(codes, scale[:, 0], zero_point))
        present.update(_aliases(quantized.network, key))
    for site, quantizer in quantized.sites.items():
        prefix = _site_prefix(quantized.plan, site)
        scale, zero_point = tensors.pop(f"{prefix}_scale"), tensors.pop(f"{prefix}_zero_point")
        if scale.dim() or zero_point.dim() or not scale > 0:
            raise ValueError(f"the scale of {prefix} is not one positive number")
        quantizer.set_grid(scale, zero_point.to(scale.dtype))
    missing, unknown = quantized.network.load_state_dict(tensors, strict=False)
    wrong = sorted((set(missing) - present) | set(unknown))
    if wrong:
        raise ValueError(f"{wrong[0]} is {'unknown' if wrong[0] in unknown else 'missing'}")
