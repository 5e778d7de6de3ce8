"""Synthetic images on disk (one safetensors file) and as a picture."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.utils import make_grid

from intraq_cli.errors import DataError
from intraq_cli.synthesis.synthesizer import Synthetic
from intraq_cli.teacher import InputSpec

FORMAT = "intraq-images-1"
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
    hint = "make one with `intraq synthesize MODEL --out images.safetensors`"
    if not path.is_file():
        raise DataError(f"no file {path}", hint)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("intraq", "{}"))
            if about.get("format") != FORMAT:
                raise DataError(f"{path} is not a set of synthetic images", hint)
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        origin = about["origin"]
        made = Synthetic(images, labels, about["losses"], about["teacher_accuracy"], about["heterogeneity"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}", hint) from error
    if images.shape[1:] != spec.input_size:
        shapes = f"{tuple(images.shape[1:])}, the model takes {spec.input_size}"
        raise DataError(f"the images in {path} are {shapes}", hint)
    if len(labels) != len(images) or len(labels) == 0 or labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"the labels in {path} do not fit a model of {num_classes} classes", hint)
    if not images.isfinite().all():
        raise DataError(f"{path} holds images that are not finite", hint)
    return made, origin


def contact_sheet(images: Tensor, spec: InputSpec) -> Image.Image:
    """The first images ``(B, C, H, W)``, normalised, side by side in one picture."""
    pixels = spec.to_pixels(images[:SHEET_IMAGES].float())
    zoom = max(1, -(-SHEET_WIDTH // pixels.shape[-1]))
    pixels = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.mean(1, keepdim=True)
    grid = make_grid(pixels, nrow=8, padding=2, pad_value=1.0)
    return Image.fromarray((grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
