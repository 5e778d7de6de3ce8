"""Reads arbitrary image files: they are checked before decoding, and refused one by one with a reason."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from intraq_cli.errors import DataError
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.runtime.torch_defaults import float32_by_default

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
ENDINGS = f"use files that end in {' '.join(sorted(EXTENSIONS))}"
"""Hint for a folder without image files."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "PPM", "TIFF")
"""Formats that are decoded, whatever the file's name; PIL has others, one of which (EPS) runs a program."""
MODES = {1: "L", 3: "RGB"}
"""PIL's mode by number of channels."""
NOT_PICTURES = {"__MACOSX", "@eaDir"}
"""Folders that macOS and network storage create beside pictures, with copies of them."""
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Most pixels of an image, both in the file and after resizing; PIL's own limit, 89 million."""
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions of PIL's decoders on damaged files."""


class UnreadableImageError(Exception):
    """An image file cannot be used, for the reason in the message. A few such files are skipped and counted."""


@dataclass(frozen=True)
class ImageReader:
    """Converts image files to a model's input.

    Args:
        mode: PIL's mode, ``L`` or ``RGB``.
        edge: length in pixels to which ``transform`` resizes the shorter side.
        transform: converts an upright image in that mode to a tensor.
    """

    mode: str
    edge: float
    transform: Callable[[Image.Image], Tensor]

    def read(self, path: Path, root: Path | None) -> Tensor:
        """Read an image file, which must be below a resolved ``root``, if given; of an animation, the first frame.

        Raises:
            UnreadableImageError: the file is not a regular file, a link out of ``root``, or not an image, or the image
                is damaged, too large or too narrow.
        """
        if not path.is_file():
            raise UnreadableImageError(f"{path} is not a regular file" if path.exists() else f"there is no file {path}")
        if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnreadableImageError(f"{path} is a link that points outside the data folder")
        Image.init()  # without it, PIL knows only the most common formats
        with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
            return self.tensor(image)

    def decode(self, image: Any, name: str) -> Tensor:
        """Convert an opened image, which is called ``name`` in messages.

        Raises:
            UnreadableImageError: ``image`` is not an image, or cannot be used.
        """
        if not isinstance(image, Image.Image):
            raise UnreadableImageError(f"{name} is missing")
        with decoding(name):
            return self.tensor(image)

    def tensor(self, image: Image.Image) -> Tensor:
        """Turn any image upright (by its EXIF orientation), convert it to this reader's mode, and transform it.

        Raises:
            ValueError: the image is too large, or cannot be converted to 8 bits.
        """
        width, height = image.size
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels: empty or too large")
        if self.edge**2 * max(width, height) / min(width, height) > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels: too long and narrow")
        return self.transform(_eight_bit(_upright(image), image.format).convert(self.mode))


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Within the block, turn PIL's errors on damaged images, and its bomb warning, into an error about ``name``.

    Raises:
        UnreadableImageError: in place of those.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about transparency and damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"{name}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image by its EXIF orientation: cameras store pixels in the sensor's orientation."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (*DECODING_ERRORS, KeyError, TypeError):  # damaged metadata; the pixels may be intact
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bit(image: Image.Image, kind: str | None) -> Image.Image:
    """Scale 16-bit pixels to 8 bits, where PIL itself would clip; 32-bit pixels up to 255 keep their values.

    Raises:
        ValueError: floating-point pixels, whose range is not known, or integers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels of more than 16 bits are not supported")
    # 32-bit integers may hold 8-bit pixels; for PNG and PGM files, PIL also uses them for 16-bit pixels
    eight = image.mode == "I" and kind not in ("PNG", "PPM") and values.max() <= 255
    return Image.fromarray((values if eight else values >> 8).astype(np.uint8))


def preprocessing(spec: InputSpec) -> Callable[[Image.Image], Tensor]:
    """Return the model's evaluation transform: PIL image in the model's mode to normalised ``(C, H, W)``, float32."""
    from timm.data import create_transform

    transform: Callable[[Image.Image], Tensor] = create_transform(**vars(spec), is_training=False)
    return partial(_in_float32, transform)  # not a closure, so that it can be pickled for other processes


def _in_float32(transform: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    with float32_by_default():
        return transform(image)


def image_reader(spec: InputSpec) -> ImageReader:
    """Return a reader that converts images to the model's input, normalised, ``(C, H, W)``.

    Raises:
        DataError: the model's input has neither one nor three channels.
    """
    mode = MODES.get(spec.input_size[0])
    if mode is None:
        raise DataError(f"image files have 1 or 3 channels, but the model takes {spec.input_size[0]}")
    return ImageReader(mode, max(spec.input_size[1:]) / spec.crop_pct, preprocessing(spec))


def picture_transform(spec: InputSpec) -> Callable[[Image.Image], Tensor]:
    """Return the transform of :func:`intraq_cli.evaluate` from any PIL image to a tensor.

    It turns the image upright and converts it to the model's mode. For a model with neither one nor three input
    channels, the transform does neither, see :func:`preprocessing`.
    """
    return image_reader(spec).tensor if spec.input_size[0] in MODES else preprocessing(spec)


def image_paths(folder: Path) -> list[Path]:
    """Return all files below ``folder`` with an image file name; links to folders are not followed.

    Hidden files are skipped, and so is what systems create beside pictures (``._x.jpg``, ``__MACOSX``).

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]  # os.walk only descends into these
        names = [name for name in [*folders, *files] if not is_hidden(name)]
        found += [Path(parent, name) for name in names if Path(name).suffix.lower() in EXTENSIONS]
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or created by the system."""
    return name.startswith(".") or name in NOT_PICTURES
