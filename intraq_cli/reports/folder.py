"""Read what a report needs from a checkpoint folder, and from nowhere else; its contents are untrusted."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import NO_CHECKPOINT, CheckpointError
from intraq_cli.io.untrusted import MAX_JSON, parse_json, read_json, read_text, safe_path
from intraq_cli.models.config import spec_of_config
from intraq_cli.reports.record import Run, Step, checked_run
from intraq_cli.runtime.metrics import METRICS
from intraq_cli.synthesis.rendering import images_of_sheet, pil_images

REPORT = "report.html"
THUMBNAILS = 24
"""Number of synthetic images in a report."""
SMALL, LARGE = 64, 112
"""Images up to ``SMALL`` pixels wide are shown unchanged, larger ones at no more than ``LARGE`` pixels a side."""
QUALITY = 82
"""JPEG quality."""


@dataclass(frozen=True)
class Record:
    """The data that a page is made from."""

    name: str
    """Name of the folder."""
    run: Run
    steps: tuple[Step, ...] = ()
    """Steps of both stages, in order."""
    labels: tuple[str, ...] = ()
    """A name for every class, if known."""
    thumbnails: tuple[bytes, ...] = ()
    """The first synthetic images as PNG or JPEG files."""


def read_record(folder: Path) -> Record:
    """Read the data for the report of a checkpoint folder.

    Raises:
        CheckpointError: the folder is not a checkpoint, or its contents are invalid.
    """
    if not (folder / "config.json").is_file() or not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} is not a checkpoint", NO_CHECKPOINT)
    config = read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)
    return record_of(folder, config, read_run(folder))


def record_of(folder: Path, config: dict[str, Any], run: dict[str, Any]) -> Record:
    """Read the data for the report, but with the given manifest instead of the one in the folder.

    Raises:
        CheckpointError: the contents of the folder or the manifest are invalid.
    """
    checked = checked_run(run, str(folder))
    names = config.get("label_names")
    labels = tuple(map(str, names)) if isinstance(names, list) else ()
    steps = tuple(read_steps(folder))
    thumbnails = tuple(_thumbnails(folder, config)) if checked.samples else ()
    return Record(folder.resolve().name, checked, steps, labels, thumbnails)


def read_steps(folder: Path) -> list[Step]:
    """Read the lines of ``metrics.jsonl``; an empty list if there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = safe_path(folder, METRICS, CheckpointError)
    if not path.exists():
        return []
    try:
        lines = read_text(path, MAX_JSON, CheckpointError).splitlines()
        return [Step.model_validate(parse_json(line)) for line in lines]
    except (ValidationError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "delete it: load() does not need it") from error


def _thumbnails(folder: Path, config: dict[str, Any]) -> list[bytes]:
    """Return the first images of the contact sheet as files; an empty list if there is no sheet of this model."""
    path = safe_path(folder, "samples.png", CheckpointError)
    cfg = config.get("pretrained_cfg")
    if not path.is_file() or not isinstance(cfg, dict):
        return []
    spec = spec_of_config(cfg, f"{folder}/config.json: pretrained_cfg", CheckpointError)
    shown = images_of_sheet(path, spec)
    if shown is None:
        return []
    return [_file(image) for image in pil_images(shown[:THUMBNAILS], spec)]


def _file(image: Image.Image) -> bytes:
    made = io.BytesIO()
    if image.width <= SMALL:
        image.save(made, "PNG", optimize=True)
    else:
        image.thumbnail((LARGE, LARGE))
        image.save(made, "JPEG", quality=QUALITY)
    return made.getvalue()
