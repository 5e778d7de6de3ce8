"""Pictures without labels, as a model takes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from intraq_cli.errors import DataError
from intraq_cli.evaluation.data import image_paths, image_reader
from intraq_cli.evaluation.image_files import EXTENSIONS, UnreadableImageError
from intraq_cli.events import Report, Warned
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.words import some_of


class Picture(NamedTuple):
    """A file to look at."""

    file: Path
    folder: Path | None
    """What was named, resolved; None: the file itself was."""


def named_pictures(path: Path) -> list[Picture]:
    """The file that ``path`` is, or all files below the folder that it is that have the name of an image, sorted.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        return [Picture(path, None)]
    found = image_paths(path)
    if not found:
        raise DataError(f"{path} holds no images", f"known endings: {' '.join(sorted(EXTENSIONS))}")
    folder = path.resolve()
    return [Picture(file, folder) for file in found]


def picture_batches(
    pictures: Sequence[Picture], size: int, spec: InputSpec, report: Report, batches: int | None = None
) -> Iterator[tuple[list[Path], Tensor]]:
    """Files and their images ``(B, C, H, W)``, normalised as the model wants them, ``size`` at a time.

    Files in folders that cannot be read are left out, and told at the end, which is after so many ``batches`` or, for
    None, all.

    Raises:
        DataError: none of them can be read, or one that was named itself cannot.
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
