"""The report of a checkpoint folder: all that the page needs is read from the folder alone, and none of it trusted."""

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

REPORT = "report.html"
THUMBNAILS = 24
SMALL, LARGE = 64, 112
"""Pixels: images up to so wide are shown as they are, larger ones no wider than that."""
QUALITY = 82
"""Of JPEG."""


@dataclass(frozen=True)
class Record:
    """What a page is made from."""

    name: str
    """Of the folder."""
    run: Run
    steps: tuple[Step, ...] = ()
    """Of both stages, in their order."""
    labels: tuple[str, ...] = ()
    """A name for every class, where they are known."""
    pictures: tuple[bytes, ...] = ()
    """PNG or JPEG of the first synthetic images."""


def read_record(folder: Path) -> Record:
    """What a checkpoint folder holds for its report.

    Raises:
        CheckpointError: it is no checkpoint, or what it says makes no sense.
    """
    if not (folder / "config.json").is_file() or not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} is no checkpoint", NO_CHECKPOINT)
    config = read_json(safe_path(folder, "config.json", CheckpointError), CheckpointError)
    return record_of(folder, config, read_run(folder))


def record_of(folder: Path, config: dict[str, Any], run: dict[str, Any]) -> Record:
    """The same, with another manifest than the one that lies there.

    Raises:
        CheckpointError: what it says makes no sense.
    """
    checked = checked_run(run, str(folder))
    names = config.get("label_names")
    labels = tuple(map(str, names)) if isinstance(names, list) else ()
    steps = tuple(read_steps(folder))
    pictures = tuple(_pictures(folder, config)) if checked.samples else ()
    return Record(folder.resolve().name, checked, steps, labels, pictures)


def read_steps(folder: Path) -> list[Step]:
    """The lines of ``metrics.jsonl``; none where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    path = safe_path(folder, METRICS, CheckpointError)
    if not path.exists():
        return []
    try:
        lines = read_text(path, MAX_JSON, CheckpointError).splitlines()
        return [Step.model_validate(parse_json(line)) for line in lines]
    except (ValidationError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "remove it: load() does not need it") from error


def _pictures(folder: Path, config: dict[str, Any]) -> list[bytes]:
    """The first images of the contact sheet, as files; none where there is no sheet of this model."""
    from intraq_cli.synthesis.pictures import images_of_sheet, pictures_of

    path = safe_path(folder, "samples.png", CheckpointError)
    cfg = config.get("pretrained_cfg")
    if not path.is_file() or not isinstance(cfg, dict):
        return []
    spec = spec_of_config(cfg, f"{folder}/config.json: pretrained_cfg", CheckpointError)
    shown = images_of_sheet(path, spec)
    if shown is None:
        return []
    return [_file(picture) for picture in pictures_of(shown[:THUMBNAILS], spec)]


def _file(picture: Image.Image) -> bytes:
    made = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(made, "PNG", optimize=True)
    else:
        picture.thumbnail((LARGE, LARGE))
        picture.save(made, "JPEG", quality=QUALITY)
    return made.getvalue()
