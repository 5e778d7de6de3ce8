"""Synthetic images on disk: one safetensors file that says where they come from and how to show them."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from intraq_cli.errors import DataError
from intraq_cli.io.atomic import plain
from intraq_cli.io.untrusted import TensorInfo, tensor_header
from intraq_cli.models.config import spec_of_config
from intraq_cli.models.meta_build import FLOATS
from intraq_cli.models.teacher import InputSpec
from intraq_cli.synthesis.tuning_images import TuningImages

FORMAT = "intraq-images-1"
HINT = "make one with `intraq synthesize MODEL --out images.safetensors`"


@dataclass(frozen=True)
class ImageSet:
    """A file of synthetic images."""

    made: TuningImages
    origin: dict[str, Any]
    """Model, recipe, seed and versions."""
    spec: InputSpec | None = None
    """How the images are normalised; None in files that do not say it."""
    label_names: list[str] | None = None


class _Origin(BaseModel):
    """Fields of the origin that are read again have their types; all others are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    sha256: str | None = None
    seed: int | None = None
    recipe: dict[str, Any] | None = None
    code: list[dict[str, str | None]] | None = None


def save_images(path: Path, images: ImageSet) -> None:
    """Write images (float16, normalised), labels, confidences and figures."""
    made = images.made
    about = {
        "format": FORMAT,
        "origin": images.origin,
        "input": asdict(images.spec) if images.spec else None,
        "label_names": images.label_names,
        "losses": made.losses,
        "teacher_accuracy": made.teacher_accuracy,
        "heterogeneity": made.heterogeneity,
    }
    tensors = {"images": made.images.contiguous(), "labels": made.labels}
    if made.confidences is not None:
        tensors["confidences"] = made.confidences
    # one entry of metadata: the order of several would differ from run to run
    save_file(tensors, path, {"intraq": json.dumps(about)})


def read_images(path: Path) -> ImageSet:
    """Read what :func:`save_images` wrote, for whatever model.

    Raises:
        DataError: no such file, or not an image set.
    """
    _check_header(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("intraq", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", HINT) from error
    origin, figures = _check_about(path, about)
    spec, names = _check_shown(path, about, tuple(tensors["images"].shape[1:]))
    if tensors["labels"].min() < 0 or (names and tensors["labels"].max() >= len(names)):
        raise DataError(f"{path} is damaged: it has labels of no class", HINT)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise DataError(f"{path} holds images that are not finite", HINT)
    made = TuningImages(tensors["images"], tensors["labels"], *figures, tensors.get("confidences"))
    return ImageSet(made, origin, spec, names)


def load_images(path: Path, spec: InputSpec, num_classes: int) -> tuple[TuningImages, dict[str, Any]]:
    """Images for a model, normalised as it takes them, and their origin.

    Raises:
        DataError: no such file, not an image set, or one that does not fit the model.
    """
    shape = _check_header(path)
    if shape != spec.input_size:
        raise DataError(f"the images in {path} are {shape}, the model takes {spec.input_size}", HINT)
    found = read_images(path)
    made = found.made
    if made.labels.max() >= num_classes:
        raise DataError(f"the labels in {path} do not fit a model of {num_classes} classes", HINT)
    if found.spec and (found.spec.mean, found.spec.std) != (spec.mean, spec.std):
        pixels = torch.cat([found.spec.to_pixels(part.float()) for part in made.images.split(64)])
        made = replace(made, images=spec.from_pixels(pixels).to(made.images.dtype))
    return made, found.origin


def _check_header(path: Path) -> tuple[int, ...]:
    """See that a file holds images and a label for each, and return their shape; none of them is read."""
    header = tensor_header(path, DataError)
    if not {"images", "labels"} <= set(header) <= {"images", "labels", "confidences"}:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    images, each = header["images"], header["images"].shape[:1]
    fits = header["labels"] == TensorInfo("I64", each)
    fits = fits and header.get("confidences", TensorInfo("F32", each)) == TensorInfo("F32", each)
    if len(images.shape) != 4 or images.dtype not in FLOATS or not fits or 0 in images.shape:
        raise DataError(f"{path} is damaged: images and labels do not fit each other", HINT)
    return images.shape[1:]


def _check_about(path: Path, about: Any) -> tuple[dict[str, Any], tuple[dict[str, float], float, float]]:
    """The origin of the images, and their losses, accuracy and heterogeneity; NaN where a figure was not defined."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    origin, losses = plain(about.get("origin")), about.get("losses")
    accuracy: Any = about.get("teacher_accuracy")
    heterogeneity: Any = about.get("heterogeneity")
    if not isinstance(origin, dict) or not isinstance(losses, dict):
        raise DataError(f"{path} is damaged: its metadata lack origin or losses", HINT)
    try:
        _Origin.model_validate(origin)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged: origin.{where}: {first['msg']}", HINT) from error
    if not all(isinstance(number, float) for number in (accuracy, heterogeneity, *losses.values())):
        raise DataError(f"{path} is damaged: its metadata hold figures that are none", HINT)
    return origin, (losses, accuracy, heterogeneity)


def _check_shown(
    path: Path, about: dict[str, Any], shape: tuple[int, ...]
) -> tuple[InputSpec | None, list[str] | None]:
    """How the images are normalised, and what their classes are called, as far as the file says it."""
    stated, names = about.get("input"), about.get("label_names")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise DataError(f"{path} is damaged: its label names are none", HINT)
    if stated is None:
        return None, names
    if not isinstance(stated, dict):
        raise DataError(f"{path} is damaged: its metadata do not say how images are normalised", HINT)
    spec = spec_of_config(stated, str(path), DataError)
    if spec.input_size != shape:
        raise DataError(f"{path} is damaged: its images have another shape than its metadata say", HINT)
    return spec, names
