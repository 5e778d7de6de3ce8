"""Synthetic images on disk: one safetensors file, with their origin and how they are normalised."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from intraq_cli.errors import DataError
from intraq_cli.io.json_files import jsonable
from intraq_cli.io.untrusted import TensorInfo, first_fault, tensor_header
from intraq_cli.models.config import spec_of_config
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.meta_build import FLOATS
from intraq_cli.synthesis.tuning_images import TuningImages

FORMAT = "intraq-images-1"
HINT = "make one with `intraq synthesize MODEL --out images.safetensors`"


@dataclass(frozen=True)
class ImageSet:
    """A file of synthetic images."""

    made: TuningImages
    origin: dict[str, Any]
    """Model, recipe, seed and versions."""
    spec: InputSpec
    """How the images are normalised."""
    label_names: list[str] | None = None


class _Table(BaseModel):
    """Validates the fields that are read back; all others are kept unchanged."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Origin(_Table):
    model: str | None = None
    sha256: str | None = None
    seed: int | None = None
    recipe: dict[str, Any] | None = None
    code: list[dict[str, str | None]] | None = None


class _About(_Table):
    """The metadata of a file, which may come from an untrusted source."""

    origin: _Origin
    input: dict[str, Any]
    label_names: Annotated[list[str], Field(min_length=1)] | None = None
    losses: dict[str, float]
    teacher_accuracy: float
    heterogeneity: float


def save_images(path: Path, images: ImageSet) -> None:
    """Write images (float16, normalised), labels, confidences and metrics."""
    made = images.made
    about = {
        "format": FORMAT,
        "origin": images.origin,
        "input": asdict(images.spec),
        "label_names": images.label_names,
        "losses": made.losses,
        "teacher_accuracy": made.teacher_accuracy,
        "heterogeneity": made.heterogeneity,
    }
    tensors = {"images": made.images.contiguous(), "labels": made.labels}
    if made.confidences is not None:
        tensors["confidences"] = made.confidences
    # a single metadata entry: the order of several would differ from run to run
    save_file(tensors, path, {"intraq": json.dumps(about)})


def read_images(path: Path) -> ImageSet:
    """Read a file that :func:`save_images` wrote, for any model.

    Raises:
        DataError: there is no such file, or it is not an image set.
    """
    _check_header(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("intraq", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", HINT) from error
    said = _check_about(path, about)
    spec, names = spec_of_config(said.input, f"{path}: input", DataError), said.label_names
    if spec.input_size != tensors["images"].shape[1:]:
        raise DataError(f"{path} is damaged: its images do not have the shape in its metadata", HINT)
    if tensors["labels"].min() < 0 or (names and tensors["labels"].max() >= len(names)):
        raise DataError(f"{path} is damaged: a label is not one of its classes", HINT)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise DataError(f"{path} contains NaN or infinite values", HINT)
    figures = said.losses, said.teacher_accuracy, said.heterogeneity
    made = TuningImages(tensors["images"], tensors["labels"], *figures, tensors.get("confidences"))
    return ImageSet(made, said.origin.model_dump(exclude_unset=True), spec, names)


def load_images(path: Path, spec: InputSpec, num_classes: int) -> tuple[TuningImages, dict[str, Any]]:
    """Read images for a model, renormalise them as the model expects, and return them with their origin.

    Raises:
        DataError: there is no such file, it is not an image set, or it does not fit the model.
    """
    shape = _check_header(path)
    if shape != spec.input_size:
        raise DataError(f"the images in {path} have shape {shape}, but the model takes {spec.input_size}", HINT)
    found = read_images(path)
    made = found.made
    if made.labels.max() >= num_classes:
        raise DataError(f"the labels in {path} exceed the model's {num_classes} classes", HINT)
    if (found.spec.mean, found.spec.std) != (spec.mean, spec.std):
        pixels = torch.cat([found.spec.to_pixels(part.float()) for part in made.images.split(64)])
        made = replace(made, images=spec.from_pixels(pixels).to(made.images.dtype))
    return made, found.origin


def _check_header(path: Path) -> tuple[int, ...]:
    """Check that a file holds images with a label each, and return an image's shape, without reading the tensors."""
    header = tensor_header(path, DataError)
    if not {"images", "labels"} <= set(header) <= {"images", "labels", "confidences"}:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    images, each = header["images"], header["images"].shape[:1]
    fits = header["labels"] == TensorInfo("I64", each)
    fits = fits and header.get("confidences", TensorInfo("F32", each)) == TensorInfo("F32", each)
    if len(images.shape) != 4 or images.dtype not in FLOATS or not fits or 0 in images.shape:
        raise DataError(f"{path} is damaged: images and labels do not match", HINT)
    return images.shape[1:]


def _check_about(path: Path, about: Any) -> _About:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    try:
        return _About.model_validate({**about, "origin": jsonable(about.get("origin"))})
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {first_fault(error)}", HINT) from error
