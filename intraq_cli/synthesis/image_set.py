"""Synthetic images on disk (one safetensors file) and as a picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.utils import make_grid

from intraq_cli.errors import DataError
from intraq_cli.io.untrusted import TensorInfo, tensor_header
from intraq_cli.models.meta_build import FLOATS
from intraq_cli.models.teacher import InputSpec
from intraq_cli.synthesis.synthesizer import Synthetic

FORMAT = "intraq-images-1"
HINT = "make one with `intraq synthesize MODEL --out images.safetensors`"
SHEET_IMAGES = 64
SHEET_WIDTH = 64
"""Least width of an image on the contact sheet, in pixels."""


def save_images(path: Path, made: Synthetic, origin: dict[str, Any]) -> None:
    """Write images (float16, normalised), labels and figures; ``origin`` says where they come from (JSON values)."""
    about = {
        "format": FORMAT,
        "origin": origin,
        "losses": made.losses,
        "teacher_accuracy": made.teacher_accuracy,
        "heterogeneity": made.heterogeneity,
    }
    # one entry of metadata: the order of several would differ from run to run
    save_file({"images": made.images.contiguous(), "labels": made.labels}, path, {"intraq": json.dumps(about)})


def load_images(path: Path, spec: InputSpec, num_classes: int) -> tuple[Synthetic, dict[str, Any]]:
    """Read what :func:`save_images` wrote: the images, and their origin.

    Raises:
        DataError: no such file, not an image set, or one that does not fit the model.
    """
    _check_header(path, spec)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("intraq", "{}"))
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", HINT) from error
    origin, figures = _check_about(path, about)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"the labels in {path} do not fit a model of {num_classes} classes", HINT)
    if not images.isfinite().all():
        raise DataError(f"{path} holds images that are not finite", HINT)
    return Synthetic(images, labels, *figures), origin


def _check_header(path: Path, spec: InputSpec) -> None:
    """See that a file holds images that fit ``spec`` and a label for each; none of them is read."""
    header = tensor_header(path, DataError)
    if set(header) != {"images", "labels"}:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    images, labels = header["images"], header["labels"]
    if images.shape[1:] != spec.input_size:
        raise DataError(f"the images in {path} are {images.shape[1:]}, the model takes {spec.input_size}", HINT)
    if images.dtype not in FLOATS or labels != TensorInfo("I64", images.shape[:1]) or not images.shape[0]:
        raise DataError(f"{path} is damaged: images and labels do not fit each other", HINT)


def _check_about(path: Path, about: Any) -> tuple[dict[str, Any], tuple[dict[str, float], float, float]]:
    """The origin of the images, and their losses, accuracy and heterogeneity; NaN where a figure was not defined."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{path} is not a set of synthetic images", HINT)
    origin, losses = about.get("origin"), about.get("losses")
    accuracy: Any = about.get("teacher_accuracy")
    heterogeneity: Any = about.get("heterogeneity")
    if not isinstance(origin, dict) or not isinstance(losses, dict):
        raise DataError(f"{path} is damaged: its metadata lack origin or losses", HINT)
    if not all(isinstance(number, float) for number in (accuracy, heterogeneity, *losses.values())):
        raise DataError(f"{path} is damaged: its metadata hold figures that are none", HINT)
    return origin, (losses, accuracy, heterogeneity)


GAP = 2
"""Pixels between images on the contact sheet."""
COLUMNS = 8


def contact_sheet(images: Tensor, spec: InputSpec) -> Image.Image:
    """The first images ``(B, C, H, W)``, normalised, side by side in one picture."""
    pixels = spec.to_pixels(images[:SHEET_IMAGES].float())
    zoom = _zoom(pixels.shape[-1])
    pixels = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.mean(1, keepdim=True)
    grid = make_grid(pixels, nrow=COLUMNS, padding=GAP, pad_value=1.0)
    return Image.fromarray((grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def images_of_sheet(path: Path, spec: InputSpec) -> Tensor | None:
    """The images ``(B, C, H, W)`` on a :func:`contact_sheet`, normalised; None if there is no such sheet of this model.

    A last row that is not full counts as far as it shows images.
    """
    channels, height, width = spec.input_size
    zoom = _zoom(width)
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            sheet = torch.from_numpy(np.array(picture.convert("L" if channels == 1 else "RGB"))).float() / 255
    except (OSError, SyntaxError):
        return None
    sheet = sheet[None] if sheet.dim() == 2 else sheet.permute(2, 0, 1)
    step = height * zoom + GAP, width * zoom + GAP
    if sheet.shape[1:] == (step[0] - GAP, step[1] - GAP):  # of a single image, without a border
        sheet = torch.nn.functional.pad(sheet, (GAP, GAP, GAP, GAP), value=1.0)
    rows, columns = ((size - GAP) // by for size, by in zip(sheet.shape[1:], step, strict=True))
    if channels not in (1, 3) or not rows or not columns or (sheet.shape[1] - GAP) % step[0]:
        return None
    places = [(GAP + r * step[0], GAP + c * step[1]) for r in range(rows) for c in range(columns)]
    tiles = [sheet[:, y : y + step[0] - GAP : zoom, x : x + step[1] - GAP : zoom] for y, x in places]
    shown = torch.stack([tile for tile in tiles if tile.amin() < 1 or rows * columns == 1] or tiles[:1])
    return spec.from_pixels(shown)


def _zoom(width: int) -> int:
    """How many pixels of the sheet show one of the image, across and down."""
    return max(1, -(-SHEET_WIDTH // width))
