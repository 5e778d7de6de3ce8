"""Pictures without labels, preprocessed for a model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from intraq_cli.errors import DataError
from intraq_cli.evaluation.image_files import ENDINGS, UnreadableImageError, image_paths, image_reader
from intraq_cli.events import Report, Warned
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.words import some_of


class Picture(NamedTuple):
    """A picture file."""

    file: Path
    folder: Path | None
    """The folder that the user named, resolved; None: the user named the file itself."""


def named_pictures(path: Path) -> list[Picture]:
    """Return the file ``path``, or, if it is a folder, all files below it with an image file name, sorted.

    Raises:
        DataError: the folder has no such files.
    """
    if not path.is_dir():
        return [Picture(path, None)]
    found = image_paths(path)
    if not found:
        raise DataError(f"{path} contains no images", ENDINGS)
    folder = path.resolve()
    return [Picture(file, folder) for file in found]


def picture_batches(
    pictures: Sequence[Picture], size: int, spec: InputSpec, report: Report, batches: int | None = None
) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield files and their images ``(B, C, H, W)``, preprocessed for the model, ``size`` at a time.

    Unreadable files from folders are skipped, and reported at the end. The end is after ``batches`` batches, or after
    all files if that is None.

    Raises:
        DataError: no file can be read, or a file that the user named itself cannot.
    """
    reader = image_reader(spec)
    files: list[Path] = []
    batch: list[Tensor] = []
    unreadable: list[str] = []
    made = looked_at = 0
    for file, folder in pictures:
        looked_at += 1
        try:
            batch.append(reader.read(file, folder))
            files.append(file)
        except UnreadableImageError as error:
            if folder is None:
                raise DataError(str(error), "give image files") from error
            unreadable.append(str(error))
        if len(batch) == size:
            yield files, torch.stack(batch)
            files, batch = [], []
            made += 1
            if made == batches:
                break
    if batch:
        yield files, torch.stack(batch)
    if len(unreadable) == looked_at:
        raise DataError(f"none of {looked_at} pictures can be read: {unreadable[0]}", "give image files")
    if unreadable:
        report(Warned(f"{len(unreadable)} of {looked_at} pictures were left out: {some_of(unreadable)}"))
