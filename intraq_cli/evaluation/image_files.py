"""Image files as they come: looked at before they are decoded, and refused one by one with a reason."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "PPM", "TIFF")
"""What is decoded, whatever the file's name; PIL has others, of which one (EPS) runs a program."""
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Of an image, as it is in the file and as it is resized; PIL's own limit, 89 million."""
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What PIL's decoders raise on damaged files."""


class UnreadableImageError(Exception):
    """An image file cannot be used; says why. Skipped and counted, as long as there are few."""


@dataclass(frozen=True)
class ImageReader:
    """Makes of image files what a model takes.

    Args:
        mode: PIL's, ``L`` or ``RGB``.
        edge: of the shorter side, in pixels, to which ``transform`` resizes images.
        transform: of an upright image in that mode.
    """

    mode: str
    edge: float
    transform: Callable[[Image.Image], Tensor]

    def read(self, path: Path, root: Path | None) -> Tensor:
        """The image of a file below ``root``, which is resolved, or of any file; of an animation the first picture.

        Raises:
            UnreadableImageError: no regular file, a link out of ``root``, no image, a damaged, too large or too narrow
                one.
        """
        if not path.is_file():
            raise UnreadableImageError(f"{path} is no regular file" if path.exists() else f"no file {path}")
        if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnreadableImageError(f"{path} is a link that leads out of the data folder")
        Image.init()  # else it knows the commonest formats only
        with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
            return self.tensor(image)

    def decode(self, image: Any, name: str) -> Tensor:
        """The same of an opened image, which messages call ``name``.

        Raises:
            UnreadableImageError: there is no image, or it cannot be used.
        """
        if not isinstance(image, Image.Image):
            raise UnreadableImageError(f"{name} is missing")
        with decoding(name):
            return self.tensor(image)

    def tensor(self, image: Image.Image) -> Tensor:
        """Of any kind of image: first in this reader's mode and upright (by its EXIF orientation).

        Raises:
            ValueError: it is too large, or of a kind that has no 8-bit form.
        """
        width, height = image.size
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels")
        if self.edge**2 * max(width, height) / min(width, height) > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels: too long and narrow")
        return self.transform(_eight_bit(_upright(image), image.format).convert(self.mode))


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Within the block, what PIL raises on a damaged image, and its warning of a bomb, say that ``name`` is unreadable.

    Raises:
        UnreadableImageError: as said.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on transparency and damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"{name}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF orientation says; cameras store what they see, however they are held."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (*DECODING_ERRORS, KeyError, TypeError):  # damaged metadata of a picture that may be sound
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bit(image: Image.Image, kind: str | None) -> Image.Image:
    """Images of 16 bits a pixel in 8 bits, where PIL itself would clip; of 32 bits as bright as they are.

    Raises:
        ValueError: floating-point pixels, whose range is not known, or whole numbers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels of more than 16 bits")
    # whole numbers of 32 bits may hold pixels of 8; PIL uses them for the 16 of PNG and PGM files as well
    eight = image.mode == "I" and kind not in ("PNG", "PPM") and values.max() <= 255
    return Image.fromarray((values if eight else values >> 8).astype(np.uint8))
