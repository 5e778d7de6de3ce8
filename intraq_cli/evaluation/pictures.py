"""Pictures without labels, as a model takes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from intraq_cli.errors import DataError
from intraq_cli.evaluation.data import image_paths, image_reader, preprocessing
from intraq_cli.evaluation.image_files import EXTENSIONS, UnreadableImageError
from intraq_cli.models.teacher import InputSpec


def picture_files(path: Path, most: int) -> list[Path]:
    """The first ``most`` files below a folder that have the name of an image, sorted; a file is itself.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        return [path]
    found = image_paths(path)
    if not found:
        raise DataError(f"{path} holds no images", f"known endings: {' '.join(sorted(EXTENSIONS))}")
    return found[:most]


def read_pictures(files: Sequence[Path], spec: InputSpec) -> Tensor:
    """Images ``(B, C, H, W)``, normalised as the model wants them.

    Raises:
        DataError: one cannot be read.
    """
    reader, transform = image_reader(spec), preprocessing(spec)
    try:
        return torch.stack([transform(reader.read(file, file.parent.resolve())) for file in files])
    except UnreadableImageError as error:
        raise DataError(str(error), "give image files") from error
