"""Float models in folders: ``config.json`` and ``model.safetensors`` of timm's architectures or this package's."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from intraq_cli.errors import ModelError, first_line
from intraq_cli.io.untrusted import read_json, safe_path, tensor_header
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.config import ModelConfig, check_config, spec_of_config
from intraq_cli.models.meta_build import (
    BUILD_ERRORS,
    MAX_PARTS,
    build_on_meta,
    check_floats,
    check_tensors,
    info_of,
    limited,
    parts_of,
    untrained,
)
from intraq_cli.models.nets import ARCHITECTURES
from intraq_cli.models.teacher import Teacher
from intraq_cli.models.timm_source import timm_teacher
from intraq_cli.words import counted, some_of


def load_folder(folder: Path, spelled: str, pretrained: bool) -> Teacher:
    """Load the network of a folder; without weights, on the meta device if possible.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``.
        spelled: the folder as the user spelled it.
        pretrained: whether to read the weights.

    Raises:
        ModelError: the folder does not exist, or its files are damaged or do not match each other.
    """
    if not os.path.isfile(folder / "config.json"):
        hint = "give a folder with timm's config.json and model.safetensors"
        raise ModelError(f"{folder} has no config.json", hint)
    return teacher_of_config(read_float_config(folder, str(folder)), folder, spelled, folder.resolve().name, pretrained)


def read_float_config(folder: Path, where: str) -> ModelConfig:
    """Read and validate the ``config.json`` of a float model; ``where`` is its name in messages.

    Raises:
        ModelError: it is damaged, or belongs to a quantized model.
    """
    config = read_json(safe_path(folder, "config.json", ModelError), ModelError)
    if "quantization_config" in config:
        raise ModelError(f"{where} is already quantized", "give the float model that it was made from")
    return check_config(config, f"{where}: config.json")


def teacher_of_config(config: ModelConfig, folder: Path, source: str, name: str, pretrained: bool) -> Teacher:
    """Build the network that ``config``, read from ``folder``, describes, and load the weights in that folder.

    ``source`` and ``name`` are those of the teacher.

    Raises:
        ModelError: the weights do not match the network, or it cannot be built.
    """
    weights = safe_path(folder, "model.safetensors", ModelError)
    if config.architecture in ARCHITECTURES:
        return _own_teacher(config, weights, source, name, pretrained)
    if not pretrained:
        with limited(MAX_PARTS):
            return timm_teacher(untrained(lambda: _timm_network(folder, False)), source, name, config.label_names)
    header = tensor_header(weights, ModelError)
    described = build_on_meta(lambda: _timm_network(folder, False), header, ModelError)
    check_floats(described, header, source)
    with limited(parts_of(header)):
        network = _timm_network(folder, True)
        made_up = _not_of_file(network, weights, lambda: _timm_network(folder, True))
    if made_up:
        which = f"{counted(len(made_up), 'tensor')} ({some_of(made_up)})"
        raise ModelError(
            f"{source}: timm sets {which} at random, not from model.safetensors",
            "check that the file contains them, and that config.json states num_classes next to architecture",
        )
    return timm_teacher(network, source, name, config.label_names)


def _not_of_file(network: nn.Module, weights: Path, load_again: Callable[[], nn.Module]) -> list[str]:
    """Return the names of tensors that timm has silently left at random values.

    A tensor that is not in the file under its name may have been renamed or converted during loading. To tell, the
    network is loaded again with another random seed: a tensor from the file has the same values again.
    """
    from safetensors import safe_open

    held = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    with safe_open(weights, "pt") as file:
        keys = {*file.keys()}
        doubtful = [
            name
            for name, tensor in held.items()
            if name not in keys or not _equal(file.get_tensor(name).to(tensor.dtype), tensor)
        ]
    if not doubtful:
        return []
    with torch.random.fork_rng(()):
        torch.manual_seed(torch.initial_seed() + 1)
        other = load_again().state_dict()
    return [name for name in doubtful if not _equal(held[name], other[name])]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values; NaN equals NaN here, and is refused elsewhere."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _timm_network(folder: Path, pretrained: bool) -> nn.Module:
    """Let timm build the network of a folder with a validated config; it loads ``model.safetensors`` if present."""
    import timm
    from safetensors import SafetensorError

    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=pretrained)
    except (*BUILD_ERRORS, SafetensorError) as error:
        raise ModelError(f"timm cannot load {folder}: {first_line(error)}") from error


def _own_teacher(config: ModelConfig, weights: Path, source: str, name: str, pretrained: bool) -> Teacher:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    def build() -> nn.Module:
        return build_architecture(config.architecture, config.num_classes, config.model_args)

    if pretrained:
        header = tensor_header(weights, ModelError)
        described = build_on_meta(build, header, ModelError).state_dict()
        check_tensors(header, {k: info_of(v, header.get(k)) for k, v in described.items()}, source, ModelError)
        network = build()
        try:
            network.load_state_dict(load_file(weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"cannot load {weights}: {first_line(error)}") from error
    else:
        network = untrained(build)
    cfg = config.pretrained_cfg
    return Teacher(
        network,
        spec_of_config(cfg, f"{source}: pretrained_cfg"),
        source,
        name,
        config.architecture,
        config.model_args,
        cfg.model_dump(include={"license", "origin_url", "num_classes"}, exclude_none=True),
        config.label_names,
    )
