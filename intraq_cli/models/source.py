"""From what the user typed to a teacher: timm, the Hub, torchvision, a folder, a Python file, or a bundled model."""

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intraq_cli.errors import IntraqError, ModelError, UsageError, first_line
from intraq_cli.io.untrusted import read_json, safe_path, tensor_header
from intraq_cli.models.config import REPOSITORY, ModelConfig, check_config, spec_of_config
from intraq_cli.models.hub import cached_commit, downloading, hub_file, is_offline
from intraq_cli.models.meta_build import (
    BUILD_ERRORS,
    MAX_PARTS,
    build_on_meta,
    check_tensors,
    info_of,
    limited,
    parts_of,
)
from intraq_cli.models.nets import ARCHITECTURES
from intraq_cli.models.teacher import InputSpec, Teacher
from intraq_cli.zoo import did_you_mean, model_folder, model_names


@dataclass(frozen=True)
class InputOverride:
    """``--input-size``, ``--mean`` and ``--std``: what the user says of the input, where it is said."""

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def apply(self, spec: InputSpec) -> InputSpec:
        """``spec`` with what was said in place."""
        changes = {key: value for key, value in vars(self).items() if value is not None}
        return replace(spec, **changes) if changes else spec


def load_teacher(model: str, override: InputOverride | None = None, weights: str | Path | None = None) -> Teacher:
    """Build the teacher that ``model`` names, in evaluation mode, frozen, in float32.

    Args:
        model: as the README spells it.
        override: what the user says of the input.
        weights: a safetensors or ``.pth`` file beside a timm name, in place of timm's own weights.

    Raises:
        ModelError: nothing of that name, or it cannot be had.
        UsageError: ``weights`` beside something else than a timm name.
    """
    override = override or InputOverride()
    if weights and _is_other(model):
        raise UsageError(f"--weights beside {model}", "it goes with a timm name alone, e.g. resnet18")
    teacher = _from_timm(model, True, Path(weights)) if weights else _resolve(model, True)(override)
    return _frozen(teacher, override)


def teacher_on_meta(model: str, override: InputOverride | None = None) -> Teacher:
    """The same without its weights, where they are not needed to build it: on the meta device if it can be built there.

    Raises:
        ModelError: nothing of that name, or its description cannot be had.
    """
    override = override or InputOverride()
    try:
        with torch.device("meta"):
            teacher = _resolve(model, False)(override)
    except (NotImplementedError, RuntimeError):  # an architecture that computes with its weights as it is built
        teacher = _resolve(model, False)(override)
    return _frozen(teacher, override)


def _frozen(teacher: Teacher, override: InputOverride) -> Teacher:
    network = teacher.network.float().eval().requires_grad_(False)
    return replace(teacher, network=network, spec=override.apply(teacher.spec))


def _resolve(model: str, pretrained: bool) -> Callable[[InputOverride], Teacher]:
    prefix, colon, rest = model.partition(":")
    if colon and prefix == "torchvision":
        return lambda _: _from_torchvision(rest, pretrained)
    if colon and prefix == "pytorchcv":
        return lambda override: _from_pytorchcv(rest, override, pretrained)
    if colon and prefix in ("hf-hub", "hf_hub"):
        return lambda _: _from_hub(rest, pretrained)
    if colon and prefix == "local-dir":
        return lambda _: _from_folder(Path(rest), model, pretrained)
    if is_factory(model):
        return lambda override: _from_file(model, override)
    if model in model_names():
        return lambda _: replace(_from_folder(model_folder(model), model, pretrained), name=model)
    if os.path.isdir(model):  # where a Path's own would raise for a name too long
        return lambda _: _from_folder(Path(model), model, pretrained)
    if re.fullmatch(REPOSITORY, model):
        return lambda _: _from_hub(model, pretrained)
    if "/" in model:
        raise ModelError(f"there is no folder {model}", "models on the Hub are written ORG/NAME")
    return lambda _: _from_timm(model, pretrained)


def _is_other(model: str) -> bool:
    """Whether ``model`` is no timm name, right or wrong."""
    import timm

    if ":" in model or "/" in model or model in model_names():
        return True
    return os.path.isdir(model) and not timm.is_model(model.partition(".")[0])


def is_factory(model: str) -> bool:
    """Whether ``model`` is spelled ``path/to/file.py:factory``."""
    return re.search(r"\.py:[^/\\]*$", model) is not None


def is_local(model: str) -> bool:
    """Whether ``model`` names a folder of this machine; the bundled models do not count."""
    return model.startswith("local-dir:") or (model not in model_names() and os.path.isdir(model))


def is_downloaded(model: str) -> bool:
    """Whether the weights of ``model`` come over the network, or from a cache of what did."""
    return not (is_local(model) or is_factory(model) or model in model_names())


# --- timm and the Hub ---


def _from_timm(model: str, pretrained: bool, weights: Path | None = None) -> Teacher:
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        here = [config.parent.name for config in Path().glob("*/config.json")]
        hint = "a timm name, a folder, ORG/NAME on the Hub, path/to/file.py:factory, ..."
        close = did_you_mean(model, [*here, *model_names(), *timm.list_models()])
        raise ModelError(f"no model and no folder {model!r}", close or hint)
    if weights is not None:
        network = _with_weights(architecture, weights)
        return replace(timm_teacher(network, model, name=architecture), weights=str(weights))
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights {tag!r} for {architecture}", "known: " + ", ".join(tags))
    if not pretrained:
        return timm_teacher(timm.create_model(model, pretrained=False), model, name=architecture)
    if not tags and not timm.models.is_model_pretrained(architecture):
        raise ModelError(
            f"timm has no pretrained weights for {architecture}",
            "give them: --weights FILE, hf-hub:ORG/NAME or a folder",
        )
    with downloading(model):
        network = timm.create_model(model, pretrained=True)
    return timm_teacher(network, model, name=architecture)


def _with_weights(architecture: str, path: Path) -> nn.Module:
    """A timm architecture with the weights of a file; its number of classes is that of the file's classifier."""
    import timm

    state = _read_weights(path)
    network = timm.create_model(architecture, pretrained=False)
    own = network.state_dict()
    cfg: dict[str, Any] = network.pretrained_cfg
    classifier = cfg.get("classifier")
    key = f"{classifier}.weight" if isinstance(classifier, str) else None
    if key in own and key in state and state[key].shape[1:] == own[key].shape[1:]:
        network = timm.create_model(architecture, pretrained=False, num_classes=len(state[key]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise ModelError(f"{path} does not fit {architecture}: {reason}", "name the architecture it is from") from error
    return network


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors or ``.pth`` file, without running code, out of a training script's wrappers."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isfile(path):
        raise ModelError(f"no file {path}", "--weights is a safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*BUILD_ERRORS, SafetensorError, UnpicklingError, EOFError) as error:
        hint = "only tensors are read, and no code is run: save network.state_dict()"
        raise ModelError(f"cannot read {path}: {first_line(error)}", hint) from error
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict", "save network.state_dict()")
    for key, tensor in state.items():
        # a view may be of any size on a storage of one value
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise ModelError(f"{path}: {key} claims more values than the file holds", "save network.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _from_hub(repository: str, pretrained: bool) -> Teacher:
    with downloading(repository):
        folder = Path(hub_file(repository, "config.json")).parent
        config = _checked_config(folder, repository)
        if pretrained:
            hub_file(repository, "model.safetensors")
    source = f"hf-hub:{repository}"
    repo_id = repository.partition("@")[0]
    name = repo_id.rpartition("/")[2]
    teacher = _from_config(config, folder, source, pretrained)
    if config.architecture in ARCHITECTURES:
        return replace(teacher, name=name)
    cfg = {**teacher.pretrained_cfg, "hf_hub_id": repo_id}
    name = name.partition(".")[0]
    return replace(teacher, name=name, pretrained_cfg=cfg, revision=cached_commit(repository))


def fetch_checkpoint(target: str, revision: str | None = None) -> Path | None:
    """The local folder of a quantized checkpoint on the Hub; None if ``target`` is no Hub name, or a float model's.

    Raises:
        ModelError: the repository cannot be had.
        UsageError: a ``revision`` of what is not on the Hub.
    """
    name = target.removeprefix("hf-hub:")
    if not re.fullmatch(REPOSITORY, name) or is_factory(target):
        if revision:
            raise UsageError(f"--revision {revision}: {target} is no repository on the Hub", "leave it out")
        return None
    if revision and "@" in name:
        raise UsageError(f"{target} names a revision, and --revision {revision} another", "name one of them")
    repository = f"{name}@{revision}" if revision else name
    with downloading(repository):
        folder = Path(hub_file(repository, "config.json")).parent
        if "quantization_config" not in read_json(folder / "config.json", ModelError):
            return None
        # of the very commit that the configuration is from: a branch may move on meanwhile
        for filename in ("model.safetensors", "run.json"):
            hub_file(f"{name.partition('@')[0]}@{folder.name}", filename)
    return folder


def timm_teacher(network: nn.Module, source: str, name: str, labels: Any = None) -> Teacher:
    """A teacher of a network that timm built: its input and its architecture are what timm says of it."""
    from timm.data import resolve_model_data_config
    from timm.models._input import get_model_args

    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    data = resolve_model_data_config(network)
    spec = InputSpec(
        tuple(data["input_size"]),
        tuple(data["mean"]),
        tuple(data["std"]),
        data["interpolation"],
        data["crop_pct"],
        data["crop_mode"],
    )
    hub_id = cfg.get("hf_hub_id")
    revision = cached_commit(hub_id) if hub_id else None
    keep = ("architecture", "tag", "num_classes", "license", "origin_url", "paper_ids", "hf_hub_id")
    return Teacher(
        network,
        spec,
        source,
        name,
        str(cfg["architecture"]),
        get_model_args(network),
        {k: cfg[k] for k in keep if cfg.get(k) is not None},
        list(labels) if isinstance(labels, (list, tuple)) else None,
        revision,
    )


# --- torchvision, pytorchcv ---


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Within the block, ``torch.load`` runs no code of a file, whoever calls it: torchvision would let it."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _from_torchvision(name: str, pretrained: bool) -> Teacher:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"torchvision has no classifier {name!r}", did_you_mean(name, known))
    weights = models.get_model_weights(name)["DEFAULT"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if pretrained and is_offline() and not cached.is_file():
        raise ModelError(f"cannot download torchvision:{name}: HF_HUB_OFFLINE is set", "unset it")
    with downloading(f"torchvision:{name}"), _tensors_only(), redirect_stdout(sys.stderr):  # it says what it downloads
        network = models.get_model(name, weights=weights if pretrained else None)
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    spec = InputSpec((3, crop, crop), tuple(preset.mean), tuple(preset.std), preset.interpolation.value, crop / resize)
    # the builders set these from the weights; without weights they must be told again
    args = {k: getattr(network, k) for k in ("transform_input", "aux_logits") if hasattr(network, k)}
    categories = weights.meta["categories"]
    cfg = {"license": "bsd-3-clause", "num_classes": len(categories), "tag": str(weights).rpartition(".")[2]}
    return Teacher(network, spec, f"torchvision:{name}", name, f"torchvision:{name}", args, cfg, None)


def _from_pytorchcv(name: str, override: InputOverride, pretrained: bool) -> Teacher:
    try:
        from pytorchcv.model_provider import get_model
    except ImportError as error:
        raise ModelError("pytorchcv is not installed", "pip install pytorchcv") from error
    with downloading(f"pytorchcv:{name}"), _tensors_only(), redirect_stdout(sys.stderr):
        try:
            network = get_model(name, pretrained=pretrained)
        except ValueError as error:
            raise ModelError(f"pytorchcv has no model {name!r}: {first_line(error)}") from error
    size = tuple(getattr(network, "in_size", (224, 224)))
    default = InputSpec((3, *size), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.875)
    return Teacher(network, override.apply(default), f"pytorchcv:{name}", name, f"pytorchcv:{name}")


# --- folders and files ---


def _from_folder(folder: Path, spelled: str, pretrained: bool) -> Teacher:
    if not os.path.isfile(folder / "config.json"):
        raise ModelError(
            f"{folder} has no config.json", "a model folder holds timm's config.json and model.safetensors"
        )
    return _from_config(_checked_config(folder, str(folder)), folder, spelled, pretrained)


def _checked_config(folder: Path, where: str) -> ModelConfig:
    config = read_json(safe_path(folder, "config.json", ModelError), ModelError)
    if "quantization_config" in config:
        raise ModelError(f"{where} is already quantized", "give the float model that it was made from")
    return check_config(config, where)


def _from_config(config: ModelConfig, folder: Path, source: str, pretrained: bool) -> Teacher:
    """The network that ``config``, which is that of ``folder``, describes; with the weights that lie beside it."""
    weights = safe_path(folder, "model.safetensors", ModelError)
    if config.architecture in ARCHITECTURES:
        return replace(_own_teacher(config, weights, source, pretrained), name=folder.resolve().name)
    header = tensor_header(weights, ModelError) if pretrained else {}
    if pretrained:
        build_on_meta(lambda: _timm_folder(folder, False), header, ModelError)
    with limited(parts_of(header) if pretrained else MAX_PARTS):
        network = _timm_folder(folder, pretrained)
    return timm_teacher(network, source, folder.resolve().name, config.label_names)


def _timm_folder(folder: Path, pretrained: bool) -> nn.Module:
    """What timm makes of a folder whose config has been checked; it takes ``model.safetensors`` where there is one."""
    import timm
    from safetensors import SafetensorError

    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=pretrained)
    except (*BUILD_ERRORS, SafetensorError) as error:
        raise ModelError(f"timm cannot load {folder}: {first_line(error)}") from error


def _own_teacher(config: ModelConfig, weights: Path, source: str, pretrained: bool) -> Teacher:
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
        if pretrained:
            network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"cannot load {weights}: {first_line(error)}") from error
    cfg = config.pretrained_cfg
    return Teacher(
        network,
        spec_of_config(cfg, source),
        source,
        weights.parent.name,
        config.architecture,
        config.model_args,
        {k: v for k, v in cfg.items() if k in ("license", "origin_url", "num_classes")},
        config.label_names,
    )


def build_architecture(architecture: str, num_classes: int | None, model_args: dict[str, Any]) -> nn.Module:
    """An untrained network of a checkpoint's architecture; nothing outside timm, torchvision, pytorchcv and our own.

    Raises:
        ModelError: no such architecture, or it does not take these arguments.
    """
    kind, colon, name = architecture.partition(":")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        with limited(MAX_PARTS):
            return _built(architecture, kind if colon else "", name, {**classes, **model_args})
    except BUILD_ERRORS as error:
        raise ModelError(f"cannot build {architecture}: {first_line(error)}") from error


def _built(architecture: str, kind: str, name: str, args: dict[str, Any]) -> nn.Module:
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](**args)
    if kind == "torchvision":
        from torchvision import models

        if name not in models.list_models(module=models):
            raise ModelError(f"torchvision has no classifier {name!r}")
        quiet = {"init_weights": False} if "transform_input" in args else {}
        return models.get_model(name, weights=None, **{**quiet, **args})
    if kind == "pytorchcv":
        from pytorchcv.model_provider import get_model

        return get_model(name, pretrained=False)
    import timm

    # a name of the registry and nothing else: timm itself also takes folders and repositories
    if not re.fullmatch(r"[\w.-]+", architecture, re.ASCII) or not timm.is_model(architecture):
        raise ModelError(f"no architecture {architecture!r} in timm {timm.__version__}", "a newer timm may have it")
    return timm.create_model(architecture, pretrained=False, **args)


def _from_file(model: str, override: InputOverride) -> Teacher:
    path_text, _, function = model.rpartition(":")
    path = Path(path_text)
    if not os.path.isfile(path):
        raise ModelError(f"no file {path}", "written path/to/file.py:factory")
    network = call_factory(path, function)
    cfg = getattr(network, "pretrained_cfg", None)
    if override.input_size and override.mean and override.std:
        spec = InputSpec(override.input_size, override.mean, override.std, crop_pct=1.0)
    elif isinstance(cfg, dict) and cfg.get("input_size"):
        spec = spec_of_config({"mean": override.mean, "std": override.std} | cfg, model)
    else:
        raise ModelError(
            f"{model} does not say how it wants its input",
            "add --input-size C,H,W --mean M,M,M --std S,S,S (for pixels in [0, 1])",
        )
    cfg = cfg if isinstance(cfg, dict) else {}
    return Teacher(network, spec, model, function, model, {}, {k: cfg[k] for k in ("license",) if cfg.get(k)})


def call_factory(path: Path, function: str) -> nn.Module:
    """Run ``function()`` of the Python file ``path``.

    Raises:
        ModelError: the file or the function fails, or returns no ``nn.Module``.
    """
    if not function.isidentifier():
        raise ModelError(f"{function!r} is no function name", "written path/to/file.py:factory")
    spec = importlib.util.spec_from_file_location(f"_intraq_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a module up by its name
    caching, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leave nothing beside the user's file
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function, None)
        if not callable(made):
            raise ModelError(f"{path} has no function {function}", did_you_mean(function, dir(module)))
        network = made()
    except IntraqError:
        raise
    except Exception as error:
        where = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), None)
        line = f", line {where.lineno}" if where else ""
        raise ModelError(
            f"{path}{line}: {type(error).__name__}: {first_line(error)}", "the error is in that file"
        ) from error
    finally:
        sys.dont_write_bytecode = caching
    if not isinstance(network, nn.Module):
        raise ModelError(f"{path}:{function} returned {type(network).__name__}, not an nn.Module")
    return network
