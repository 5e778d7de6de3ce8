"""The ``config.json`` of a checkpoint: its content, and reading it from an untrusted folder."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool, StrictInt, ValidationError

from intraq_cli.choices import Placement
from intraq_cli.errors import GET_AGAIN, NO_CHECKPOINT, CheckpointError
from intraq_cli.graph.fingerprint import fingerprint
from intraq_cli.graph.nodes import unnumbered
from intraq_cli.io.untrusted import first_fault, read_json, safe_path
from intraq_cli.models.config import is_class_count
from intraq_cli.models.source import needs_code
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.plan import Plan

FORMAT_VERSION = 2
Bits = Annotated[StrictInt, Field(ge=2, le=8)]


class _Weights(BaseModel):
    bits: Bits
    symmetric: StrictBool


class _Activations(_Weights):
    placement: Placement


class _QuantizationConfig(BaseModel):
    """How a network is quantized: the fields that are needed to run it; other fields are ignored."""

    weights: _Weights
    activations: _Activations
    modules: dict[str, Bits]
    sites: dict[str, Bits]


def checkpoint_config(teacher: Teacher, captured: Captured, plan: Plan, w_bits: int, a_bits: int) -> dict[str, Any]:
    """Return the content of ``config.json``: timm's keys, and how the network is quantized."""
    spec = teacher.spec
    config: dict[str, Any] = {
        "architecture": teacher.architecture,
        "num_classes": captured.num_classes,
        "model_args": teacher.model_args,
        "pretrained_cfg": {**teacher.pretrained_cfg, **vars(spec)},
    }
    if teacher.label_names:
        config["label_names"] = teacher.label_names
    config["quantization_config"] = {
        "quant_method": "intraq",
        "format_version": FORMAT_VERSION,
        "weights": {"bits": w_bits, "granularity": "channel", "symmetric": plan.limits.keys() == plan.weights.keys()},
        "activations": {"bits": a_bits, "granularity": "tensor", "symmetric": False, "placement": plan.placement},
        "modules": plan.weights,
        "sites": plan.activations,
    }
    if needs_code(teacher.architecture):
        config["quantization_config"]["code"] = fingerprint(captured.graph)
    return config


def own_quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the quantization table of an intraq checkpoint's config; None for any other config."""
    found = config.get("quantization_config")
    return found if isinstance(found, dict) and found.get("quant_method") == "intraq" else None


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` looks like a quantized checkpoint, in contrast to a float model's folder.

    Raises:
        CheckpointError: its ``config.json`` cannot be read.
    """
    if not os.path.isfile(folder / "config.json"):
        return False
    return "quantization_config" in read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)


def is_own_checkpoint(folder: Path) -> bool:
    """Whether ``quantize`` wrote the folder, in any format version."""
    try:
        return own_quantization(read_json(folder / "config.json", CheckpointError)) is not None
    except CheckpointError:
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of an intraq checkpoint of the supported format, without checking its tables.

    Raises:
        CheckpointError: the folder is not such a checkpoint.
    """
    if not os.path.isfile(folder / "config.json"):
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json", NO_CHECKPOINT)
    config = read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)
    quantization = own_quantization(config)
    if quantization is None:
        raise CheckpointError(f"{folder} is not an intraq checkpoint", NO_CHECKPOINT)
    version = quantization.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {version!s:.20}, but this version of intraq reads {FORMAT_VERSION}",
            "create it again with `intraq quantize`" if version == 1 else "update intraq",
        )
    for key, fits in {"num_classes": is_class_count, "pretrained_cfg": lambda cfg: isinstance(cfg, dict)}.items():
        if not fits(config.get(key)):
            raise CheckpointError(f"{folder}/config.json has no valid {key}", NO_CHECKPOINT)
    return config


def read_plan(folder: Path, config: dict[str, Any]) -> Plan:
    """Read how the network of a checkpoint is quantized.

    Raises:
        CheckpointError: the config does not say so, or its values are not valid.
    """
    try:
        found = _QuantizationConfig.model_validate(config["quantization_config"])
    except ValidationError as error:
        what = f"{folder}/config.json: quantization_config.{first_fault(error)}"
        raise CheckpointError(what, GET_AGAIN) from error
    placement = found.activations.placement
    for site in found.sites if placement == "inputs" else ():
        name, _ = unnumbered(site)
        if not found.modules.keys() & {site, name}:
            raise CheckpointError(f"{folder}/config.json: the input of {name} is quantized, but its weight is not")
    return Plan(placement, found.modules, found.sites)
