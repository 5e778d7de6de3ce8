"""Synthetic images rendered as image files: one file each in class folders, or side by side on a contact sheet."""

import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.models.class_names import name_of
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.synthesis.tuning_images import TuningImages
from intraq_cli.words import one_line

LARGEST_SHEET = 1_000_000
"""Largest size of a sheet's file, in bytes."""
SMALL, LARGE = 96, 160
"""Least and largest width of an image on a sheet, in pixels: smaller ones are enlarged, larger ones reduced."""
ROWS = 4
PER_ROW = {True: 10, False: 8}
"""Images per row, if they are enlarged (True) or not (False)."""
GAP, CAPTION, FONT = 4, 18, 12
"""Pixels between images, height of the caption with the class name, and its font size."""
LAYOUT = "intraq"
"""Key of the PNG text that describes the positions of the images."""
SOFTWARE = ("Software", "intraq")
"""PNG text that identifies files written by this module."""
LONGEST_NAME = 60
"""Largest number of characters of the class name in a folder's name."""
AT_ONCE = 64


# --- class folders ---


def write_class_folders(folder: Path, made: TuningImages, spec: InputSpec, names: list[str] | None) -> None:
    """Write each image as a PNG file in the folder of its class: ``0207_golden_retriever/00003_0.982.png``.

    Args:
        folder: an existing, empty folder.
        made: the images; a file name consists of the image's index and, if known, the teacher's confidence.
        spec: how the images are normalised.
        names: names of all classes.
    """
    labels = made.labels.tolist()
    digits = len(str(len(names) - 1 if names else max(labels)))
    made_by = PngInfo()
    made_by.add_text(*SOFTWARE)
    for k, image in enumerate(pil_images(made.images, spec)):
        own = folder / class_folder(labels[k], names, digits)
        own.mkdir(exist_ok=True)
        confidence = "" if made.confidences is None else f"_{made.confidences[k].item():.3f}"
        image.save(own / f"{k:05d}{confidence}.png", pnginfo=made_by)


def is_class_folders(folder: Path) -> bool:
    """Whether a folder holds only files that :func:`write_class_folders` wrote."""
    entries = [*folder.iterdir()]
    return all(entry.is_dir() for entry in entries) and all(_is_own(file) for one in entries for file in one.iterdir())


def _is_own(file: Path) -> bool:
    name, text = SOFTWARE
    try:
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get(name) == text
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def class_folder(index: int, names: list[str] | None, digits: int) -> str:
    """Return a folder name for a class, valid on any file system: its index and name."""
    number = f"{index:0{digits}d}"
    text = unicodedata.normalize("NFC", names[index])[:LONGEST_NAME] if names else ""
    text = re.sub(r"[^\w-]+", "_", text).strip("_")
    return number if text in ("", number) else f"{number}_{text}"


def pil_images(images: Tensor, spec: InputSpec) -> Iterator[Image.Image]:
    """Convert normalised images ``(B, C, H, W)`` to PIL images, one by one."""
    for part in images.split(AT_ONCE):
        for pixels in spec.to_pixels(part.float()):
            yield _pil_image(pixels)


def _pil_image(pixels: Tensor) -> Image.Image:
    """Convert ``(C, H, W)`` in [0, 1] to a PIL image; average the channels if there are not 1 or 3."""
    if len(pixels) not in (1, 3):
        pixels = pixels.mean(0, keepdim=True)
    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(values if values.shape[2] == 3 else values[:, :, 0])


# --- contact sheet ---


def write_sheet(path: Path, made: TuningImages, spec: InputSpec, names: list[str] | None) -> None:
    """Write some of the images side by side with the names of their classes, as PNG or JPEG by the file's suffix.

    They are the first ones of each class in turn; of many classes, evenly spaced ones. The file has at most 1 MB:
    images are reduced until it fits.
    """
    width = spec.input_size[2]
    zoom = _zoom(spec)
    columns, chosen = shown_on_sheet(made.labels, spec)
    factor = zoom if width * zoom <= LARGE else LARGE / width
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    while True:
        sheet, layout = _sheet(made, spec, names, chosen, columns, factor)
        content = io.BytesIO()
        if jpeg:
            sheet.save(content, "JPEG", quality=90)
        else:
            info = PngInfo()
            info.add_text(LAYOUT, json.dumps(layout))
            sheet.save(content, "PNG", pnginfo=info)
        size = content.getbuffer().nbytes
        if size <= LARGEST_SHEET:
            break
        factor *= 0.97 * (LARGEST_SHEET / size) ** 0.5
    path.write_bytes(content.getvalue())


def _zoom(spec: InputSpec) -> int:
    return max(1, -(-SMALL // spec.input_size[2]))


def shown_on_sheet(labels: Tensor, spec: InputSpec) -> tuple[int, list[int]]:
    """Return the number of columns and the images' indices; each class has its own columns if all fit into a row."""
    classes, per_row = int(labels.unique().numel()), PER_ROW[_zoom(spec) > 1]
    columns = per_row if classes > per_row else classes * (per_row // classes)
    chosen = spread_over_classes(labels, ROWS * columns)
    if classes > per_row and len(chosen) < ROWS * columns:
        columns = -(-len(chosen) // -(-len(chosen) // per_row))  # makes rows as even as possible
    return min(columns, len(chosen)), chosen


def spread_over_classes(labels: Tensor, most: int) -> list[int]:
    """Choose images by their labels ``(N,)``: the first of each class, ordered by class, then the second, and so on.

    If there are more classes than ``most``, evenly spaced classes are chosen.
    """
    by_class: dict[int, list[int]] = {}
    for k, label in enumerate(labels.tolist()):
        by_class.setdefault(label, []).append(k)
    known = sorted(by_class)
    if len(known) > most:
        known = [known[k * len(known) // most] for k in range(most)]
    rounds = range(max(map(len, by_class.values())))
    return [by_class[c][turn] for turn in rounds for c in known if turn < len(by_class[c])][:most]


def _sheet(
    made: TuningImages, spec: InputSpec, names: list[str] | None, chosen: list[int], columns: int, factor: float
) -> tuple[Image.Image, dict[str, Any]]:
    _, height, width = spec.input_size
    tile = max(1, round(height * factor)), max(1, round(width * factor))
    layout: dict[str, Any] = {"images": len(chosen), "columns": columns, "height": tile[0], "width": tile[1]}
    layout["input_size"] = spec.input_size
    font = ImageFont.load_default(FONT)
    resample = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    sheet = Image.new("L" if spec.input_size[0] != 3 else "RGB", _size(layout), "white")
    draw = ImageDraw.Draw(sheet)
    tiles = pil_images(made.images[chosen], spec)
    for image, (x, y), k in zip(tiles, _places(layout), chosen, strict=True):
        sheet.paste(image.resize((tile[1], tile[0]), resample), (x, y))
        text = _fitting(one_line(name_of(int(made.labels[k]), names)), font, tile[1])
        draw.text((x, y + tile[0] + 1), text, "black", font)
    return sheet, layout


def _fitting(text: str, font: Any, width: int) -> str:
    """Return ``text``, shortened with an ellipsis if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _places(layout: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the upper left corners ``(x, y)`` of the images."""
    across, down = layout["width"] + GAP, layout["height"] + CAPTION + GAP
    places = (divmod(k, layout["columns"]) for k in range(layout["images"]))
    return [(GAP + column * across, GAP + row * down) for row, column in places]


def _size(layout: dict[str, Any]) -> tuple[int, int]:
    """Return width and height of the whole sheet."""
    rows = -(-layout["images"] // layout["columns"])
    return GAP + layout["columns"] * (layout["width"] + GAP), GAP + rows * (layout["height"] + CAPTION + GAP)


def images_of_sheet(path: Path, spec: InputSpec) -> Tensor | None:
    """Read the images ``(B, C, H, W)`` from a PNG of :func:`write_sheet`, normalised; None if it does not fit ``spec``.

    Images that were reduced have lost sharpness.
    """
    channels, height, width = spec.input_size
    try:
        with Image.open(path, formats=["PNG"]) as image:
            layout = _read_layout(image)
            if layout is None or layout.get("input_size") != list(spec.input_size) or channels not in (1, 3):
                return None
            if image.size != _size(layout):
                return None
            pixels = torch.from_numpy(np.array(image.convert("L" if channels == 1 else "RGB"))).float() / 255
    except (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError):
        return None
    pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    tiles = [pixels[:, y : y + layout["height"], x : x + layout["width"]] for x, y in _places(layout)]
    enlarged = layout["width"] >= width
    shown = F.interpolate(torch.stack(tiles), (height, width), mode="nearest-exact" if enlarged else "bilinear")
    return spec.from_pixels(shown)


def _read_layout(image: Image.Image) -> dict[str, Any] | None:
    """Read the layout stored in a sheet; None if it is missing or invalid."""
    layout = json.loads(str(image.info.get(LAYOUT, "null")))
    if not isinstance(layout, dict):
        return None
    numbers = [layout.get(key) for key in ("images", "columns", "height", "width")]
    fits = all(type(number) is int and 1 <= number <= 2**12 for number in numbers)
    return layout if fits and layout["columns"] <= layout["images"] else None
