"""``images``: describe a file of synthetic images, and write them as PNG or JPEG files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from intraq_cli.api.arguments import verb
from intraq_cli.errors import DataError, UsageError
from intraq_cli.io.atomic import atomic_file, atomic_folder, check_apart, check_output
from intraq_cli.models.class_names import name_of
from intraq_cli.results import ClassCount, ImagesResult
from intraq_cli.synthesis.image_set import ImageSet, read_images
from intraq_cli.synthesis.rendering import is_class_folders, write_class_folders, write_sheet

SUFFIXES = (".png", ".jpg", ".jpeg")


@verb
def images(
    file: str | Path,
    *,
    png: str | Path | None = None,
    sheet: str | Path | None = None,
    classes: Sequence[int] | None = None,
    force: bool = False,
) -> ImagesResult:
    """Describe the contents of a file of synthetic images, and write them as PNG or JPEG files.

    Args:
        file: a file that ``synthesize`` wrote.
        png: a folder to create, with a subfolder for each class: every image at full size as a PNG file. The file name
            has the image's number and the float model's confidence in the class.
        sheet: a PNG or JPEG file to create, with some of the images side by side and the names of their classes.
        classes: indices of the classes to include; default: all.
        force: replace an existing folder or file.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    if png is not None:
        check_output(Path(png), force, is_class_folders)
    if sheet is not None:
        check_output(Path(sheet), force)
        if Path(sheet).suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"--sheet {sheet}: neither a PNG nor a JPEG file", f"end its name in {', '.join(SUFFIXES)}"
            )
    if png is not None and sheet is not None:
        check_apart(Path(sheet), Path(png))
    whole = read_images(Path(file))
    found = _of_classes(whole, file, classes)
    if png is not None:
        with atomic_folder(Path(png), force, is_class_folders) as folder:
            write_class_folders(folder, found.made, found.spec, found.label_names)
    if sheet is not None:
        with atomic_file(Path(sheet), force) as scratch:
            write_sheet(scratch, found.made, found.spec, found.label_names)
    return _summary(found, len(whole.made.images), file, png, sheet)


def _of_classes(found: ImageSet, file: str | Path, classes: Sequence[int] | None) -> ImageSet:
    if classes is None:
        return found
    made = found.made
    if not classes:
        raise DataError("--classes names no class", "leave it out for all classes")
    missing = sorted({*classes} - {*made.labels.tolist()})
    if missing:
        raise DataError(f"{file} has no images of class {', '.join(map(str, missing))}")
    chosen = torch.isin(made.labels, torch.tensor([*classes]))
    return replace(found, made=made.select(chosen))


def _summary(
    found: ImageSet, n_file: int, file: str | Path, png: str | Path | None, sheet: str | Path | None
) -> ImagesResult:
    made, origin = found.made, found.origin
    classes, counts = made.labels.unique(return_counts=True)
    channels, height, width = made.images.shape[1:]
    return ImagesResult(
        path=str(file),
        n=len(made.images),
        image_shape=(channels, height, width),
        bytes=Path(file).stat().st_size,
        classes=[
            ClassCount(c, name_of(c, found.label_names), n)
            for c, n in zip(classes.tolist(), counts.tolist(), strict=True)
        ],
        model=str(origin.get("model")),
        sha256=origin.get("sha256"),
        seed=origin.get("seed"),
        recipe=origin.get("recipe") or {},
        code=origin.get("code") or [],
        losses=made.losses,
        teacher_accuracy=100 * made.teacher_accuracy,
        confidence=None if made.confidences is None else made.confidences.mean().item(),
        heterogeneity=made.heterogeneity,
        n_file=n_file,
        png=None if png is None else str(png),
        sheet=None if sheet is None else str(sheet),
    )
