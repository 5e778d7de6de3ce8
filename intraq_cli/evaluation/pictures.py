"""Pictures without labels, as a model takes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from intraq_cli.errors import DataError
from intraq_cli.evaluation.data import ImageTensors, image_paths
from intraq_cli.evaluation.image_files import EXTENSIONS, UnreadableImageError
from intraq_cli.events import Report, Warned, some_of
from intraq_cli.models.teacher import InputSpec

AT_ONCE = 16
"""Pictures in a batch."""


def picture_files(path: Path, most: int | None = None) -> list[Path]:
    """The files, or the first ``most``, below a folder that have the name of an image, sorted; a file is itself.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        return [path]
    found = image_paths(path)
    if not found:
        raise DataError(f"{path} holds no images", f"known endings: {' '.join(sorted(EXTENSIONS))}")
    return found[:most]


class Picture(NamedTuple):
    """A file to look at."""

    file: Path
    folder: Path | None
    """What was named, resolved; None: the file itself was."""


def named_pictures(path: Path) -> list[Picture]:
    """The file that ``path`` is, or all images in the folder that it is.

    Raises:
        DataError: there are none.
    """
    folder = path.resolve() if path.is_dir() else None
    return [Picture(file, folder) for file in picture_files(path)]


def read_named(pictures: Sequence[Picture], spec: InputSpec) -> tuple[list[Path], list[Tensor], list[str]]:
    """The files that can be read, their images as the model wants them, and why others in folders cannot.

    Raises:
        DataError: a file that was named itself cannot be read.
    """
    images = ImageTensors(spec)
    files, tensors, unreadable = [], [], []
    for file, folder in pictures:
        try:
            tensors.append(images.read(file, folder))
            files.append(file)
        except UnreadableImageError as error:
            if folder is None:
                raise DataError(str(error), "give image files") from error
            unreadable.append(str(error))
    return files, tensors, unreadable


def tell_unreadable(unreadable: Sequence[str], count: int, report: Report) -> None:
    """Say which of ``count`` pictures were left out, and why.

    Raises:
        DataError: all of them.
    """
    if len(unreadable) == count:
        raise DataError(f"none of {count} pictures can be read: {unreadable[0]}", "give image files")
    if unreadable:
        report(Warned(f"{len(unreadable)} of {count} pictures were left out: {some_of(unreadable)}"))


def picture_batches(files: Sequence[Path], folder: Path, spec: InputSpec, report: Report) -> Iterator[Tensor]:
    """Images ``(B, C, H, W)`` of files below ``folder``, normalised as the model wants them, few at a time.

    Those that cannot be read are left out, and told at the end.

    Raises:
        DataError: none of them can be read.
    """
    images, root = ImageTensors(spec), folder.resolve()
    batch: list[Tensor] = []
    unreadable: list[str] = []
    for file in files:
        try:
            batch.append(images.read(file, root))
        except UnreadableImageError as error:
            unreadable.append(str(error))
        if len(batch) == AT_ONCE:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)
    tell_unreadable(unreadable, len(files), report)
