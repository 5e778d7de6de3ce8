"""MODEL, parsed once: where a float network comes from, and the input that it expects."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.models.config import REPOSITORY, spec_of_config
from intraq_cli.models.folder import load_folder
from intraq_cli.models.given_module import check_built, check_values, copied, unwrapped
from intraq_cli.models.hub_source import load_hub
from intraq_cli.models.input_options import InputOverride, check_pixel_scale
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.libraries import load_pytorchcv, load_torchvision
from intraq_cli.models.python_file import call_factory, factories_in
from intraq_cli.models.teacher import Teacher
from intraq_cli.models.timm_source import load_timm
from intraq_cli.words import one_line
from intraq_cli.zoo import model_folder, model_names

Kind = Literal["timm", "hub", "folder", "bundled", "torchvision", "pytorchcv", "factory", "module"]
PREFIXES: dict[str, Kind] = {
    "hf-hub": "hub",
    "hf_hub": "hub",
    "local-dir": "folder",
    "torchvision": "torchvision",
    "pytorchcv": "pytorchcv",
    "module": "module",
}
NOTHING_STATED = InputOverride()


@dataclass(frozen=True)
class Source:
    """A float network, given by name or as a module; nothing is read before :meth:`load`."""

    kind: Kind
    name: str
    """Name without the prefix of its kind: timm's name, ``ORG/NAME[@REVISION]``, a folder, ``file.py:factory``, ..."""
    spelled: str
    """The name as a user would write it; ``module:CLASS`` for a module."""
    weights: Path | None = None
    """A weights file to use instead of timm's weights."""
    override: InputOverride = NOTHING_STATED
    module: nn.Module | None = None

    @classmethod
    def parse(
        cls,
        model: str | os.PathLike[str] | nn.Module,
        override: InputOverride | None = None,
        *,
        weights: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """Determine what ``model`` names. Only local files and folders are looked up.

        Args:
            model: a name or path in one of the forms in the README, or the network itself.
            override: the user's input options.
            weights: a safetensors or ``.pth`` file for a timm architecture, instead of timm's own weights.
            revision: revision of a repository on the Hub.

        Raises:
            ModelError: ``model`` is a path that does not exist.
            UsageError: ``weights``, ``revision`` or a value of ``override`` is not valid for this model.
        """
        override = override or NOTHING_STATED
        override.check()
        if isinstance(model, nn.Module):
            model = unwrapped(model)
            name = type(model).__name__
            source = cls("module", name, f"module:{name}", override=override, module=model)
        elif not isinstance(model, (str, os.PathLike)):
            kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            hint = "give a name, a path, or the nn.Module itself (not its class)"
            raise UsageError(f"expected the name of a model or an nn.Module, got {kind}", hint)
        else:
            text = os.fspath(model)
            kind, name = _kind(text, beside_weights=weights is not None)
            source = cls(kind, name, text, override=override)
        return source._with_weights(weights)._at(revision)

    def _with_weights(self, weights: str | Path | None) -> Self:
        if weights is None:
            return self
        if self.kind != "timm":
            raise UsageError(
                f"--weights cannot be used with {self.spelled}", "use it with a timm name such as resnet18"
            )
        return replace(self, weights=Path(weights))

    def _at(self, revision: str | None) -> Self:
        if not revision:
            return self
        if self.kind != "hub":
            raise UsageError(f"--revision {revision}: {self.spelled} is not a repository on the Hub", "leave it out")
        if "@" in self.name:
            raise UsageError(f"{self.spelled} names a revision, and so does --revision {revision}", "give only one")
        return replace(self, name=f"{self.name}@{revision}", spelled=f"{self.spelled}@{revision}")

    @property
    def needs_code(self) -> bool:
        """Whether user code builds the network; checkpoints do not contain that code."""
        return self.kind in ("factory", "module")

    @property
    def is_downloaded(self) -> bool:
        """Whether its weights are downloaded, or read from a download cache."""
        return self.kind in ("timm", "hub", "torchvision", "pytorchcv") and self.weights is None

    def taking(self, spec: InputSpec) -> Self:
        """Return the same source with the input of a checkpoint that was made from it."""
        stated = InputOverride(spec.input_size, spec.mean, spec.std, spec.crop_pct, spec.interpolation)
        return replace(self, override=stated)

    def load(self) -> Teacher:
        """Load the teacher in evaluation mode, frozen, in float32; a module is copied.

        Raises:
            ModelError: the model does not exist, or cannot be loaded.
        """
        return self._finished(pretrained=True)

    def on_meta(self) -> Teacher:
        """Load the teacher without its weights, on the meta device if possible.

        Networks built by user code have their weights anyway. If mean and standard deviation are not stated, they are 0
        and 1, since the network will not see a picture.

        Raises:
            ModelError: the model does not exist, or its description cannot be loaded.
        """
        return self._finished(pretrained=False)

    def _finished(self, pretrained: bool) -> Teacher:
        teacher = self._from_code(pretrained) if self.needs_code else self._from_name(pretrained)
        network = teacher.network
        check_built(network, self.spelled)
        for prepare in (network.float, network.eval, lambda: network.requires_grad_(False)):
            prepare()  # ignore the result: a network's own train() may return None
        return replace(teacher, spec=replace(teacher.spec, **self.override.stated))

    def _from_name(self, pretrained: bool) -> Teacher:
        match self.kind:
            case "torchvision":
                return load_torchvision(self.name, pretrained)
            case "pytorchcv":
                return load_pytorchcv(self.name, pretrained)
            case "hub":
                return load_hub(self.name, pretrained)
            case "folder":
                return load_folder(Path(self.name), self.spelled, pretrained)
            case "bundled":
                return load_folder(model_folder(self.name), self.name, pretrained)
            case _:
                return load_timm(self.name, pretrained, self.weights)

    def _from_code(self, pretrained: bool) -> Teacher:
        network = unwrapped(call_factory(self.name)) if self.kind == "factory" else self._copied()
        if pretrained:
            check_values(network, self.spelled)
        cfg: Any = getattr(network, "pretrained_cfg", None)
        cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg  # timm's PretrainedCfg
        cfg = cfg if isinstance(cfg, dict) else {}
        spec = self._input_of(cfg, shown_pictures=pretrained)
        licence = cfg.get("license")
        about = {"license": one_line(licence)[:100]} if isinstance(licence, str) and licence.strip() else {}
        name = self.name.rpartition(":")[2]
        return Teacher(network, spec, self.spelled, name, self.spelled, {}, about)

    def _input_of(self, cfg: dict[str, Any], shown_pictures: bool) -> InputSpec:
        """Return the input that the user states, completed from the module's own ``pretrained_cfg``."""
        own = {key: value for key, value in cfg.items() if value is not None}
        stated = {**({} if "input_size" in own else {"crop_pct": 1.0}), **own, **self.override.stated}
        examples = {"input_size": "--input-size C,H,W", "mean": "--mean M,M,M", "std": "--std S,S,S"}
        if not shown_pictures:
            examples = {"input_size": examples["input_size"]}
            stated = _pixels_as_they_are(stated.get("input_size")) | stated
        missing = {key: example for key, example in examples.items() if key not in stated}
        if missing:
            scale = " (for pixels in [0, 1])" if {"mean", "std"} & missing.keys() else ""
            raise ModelError(
                f"{self.spelled} does not specify its input: {', '.join(missing)}",
                f"add {' '.join(missing.values())}{scale}; in Python, {next(iter(missing))}=...",
            )
        spec = spec_of_config(stated, f"{self.spelled}: pretrained_cfg")
        mean = None if self.override.mean else spec.mean
        std = None if self.override.std else spec.std
        check_pixel_scale(mean, std, f"{self.spelled}: pretrained_cfg")
        return spec

    def _copied(self) -> nn.Module:
        if self.module is None:
            raise ModelError(f"{self.spelled} can only be built by its own code", "give the module itself: model=...")
        return copied(self.module, self.spelled)


def _pixels_as_they_are(size: Any) -> dict[str, Any]:
    """Return a mean of 0 and a standard deviation of 1 for each channel; an invalid ``size`` is refused later."""
    channels = size[0] if isinstance(size, (list, tuple)) and size and isinstance(size[0], int) else 3
    return {"mean": (0.0,) * channels, "std": (1.0,) * channels}


def needs_code(architecture: str) -> bool:
    """Whether this architecture can only be built by user code: ``file.py:factory``, ``module:CLASS``."""
    return re.search(r"\.py:[^/\\]*$|^module:", architecture) is not None


def _kind(text: str, beside_weights: bool) -> tuple[Kind, str]:
    if beside_weights and _may_be_timm(text):
        return "timm", text
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        return PREFIXES[prefix], rest
    if needs_code(text):
        return "factory", text
    if text.endswith(".py") and not os.path.isdir(text):
        raise _no_function(text)
    if text in model_names():
        return "bundled", text
    if os.path.isdir(text):  # Path.is_dir and is_file would raise for a name that is too long
        return "folder", text
    if os.path.isfile(text):
        hint = "to use it as weights, give a timm name: ARCHITECTURE --weights FILE"
        if text.endswith(".onnx"):
            hint = "only `evaluate` and `predict` take ONNX files: give the checkpoint folder, or the float model"
        raise ModelError(f"{text} is a file, not a model", hint)
    if re.fullmatch(REPOSITORY, text):
        return "hub", text
    if "/" in text:
        here = os.path.isabs(text) or text.startswith(".")
        hint = "give a folder or path/to/file.py:factory" if here else "write a model on the Hub as ORG/NAME"
        raise ModelError(f"there is no folder {text}", hint)
    return "timm", text


def _no_function(file: str) -> ModelError:
    """Return the error for a Python file without the name of the function that builds the network."""
    if not os.path.isfile(file):
        return ModelError(f"there is no file {file}", "write a network of your own as path/to/file.py:factory")
    names = factories_in(Path(file))
    known = f"; it defines {', '.join(names)}" if names else ""
    return ModelError(f"{file} does not say which function builds the network", f"write {file}:factory{known}")


def _may_be_timm(text: str) -> bool:
    """Whether ``text``, given with a weights file, is meant as a timm name, even a misspelled one."""
    import timm

    if ":" in text or "/" in text or text in model_names():
        return False
    return not os.path.isdir(text) or timm.is_model(text.partition(".")[0])
