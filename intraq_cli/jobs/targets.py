"""What a target names: a checkpoint or an exported file; and the float teacher that it was made from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from intraq_cli.checkpoint.config import is_checkpoint
from intraq_cli.checkpoint.read import Checkpoint, read_checkpoint
from intraq_cli.deploy.exported import Exported, open_exported
from intraq_cli.errors import CheckpointError, IntraqError, ModelError, UsageError, check_unused
from intraq_cli.events import Report, Warned
from intraq_cli.models.hub import split_revision
from intraq_cli.models.hub_source import fetch_checkpoint
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import Teacher, place_classifier

T = TypeVar("T")
AGAIN = "give the float model with --model, and with --weights if its weights come from a file"


def find_checkpoint(target: str, code: Source | None, device: torch.device, revision: str | None) -> Checkpoint | None:
    """Read the checkpoint that ``target`` names, in a folder or on the Hub; return None if it names none.

    Args:
        target: as the user spelled it.
        code: the user's code that builds the network, for a checkpoint that does not contain its architecture.
        device: device for the network.
        revision: revision of a repository on the Hub.

    Raises:
        IntraqError: the checkpoint is damaged, or cannot be fetched.
    """
    return read_folder(target, revision, lambda folder: read_checkpoint(folder, code, device))


def find_quantized(
    target: str, code: Source | None, device: torch.device, revision: str | None, override: InputOverride
) -> Checkpoint | Exported | None:
    """Read the checkpoint or the exported file that ``target`` names; return None if it names neither.

    Args:
        target: as the user spelled it; empty for a module.
        code: as for :func:`find_checkpoint`.
        device: as for :func:`find_checkpoint`.
        revision: as for :func:`find_checkpoint`.
        override: the user's input options; must be empty for a quantized network, which stores its input.

    Raises:
        IntraqError: the target is damaged, or cannot be fetched.
    """
    if target.endswith(".onnx"):
        check_unused(f"{target} is a file and has no revisions", revision=revision)
        found: Checkpoint | Exported | None = open_exported(Path(target))
    else:
        found = find_checkpoint(target, code, device, revision) if target else None
    if found is not None:
        check_unused(f"{target} has its own input size and preprocessing", **override.stated)
    return found


def load_float(source: Source, device: torch.device, model: Any) -> tuple[Teacher, int]:
    """Load the float model that is itself a target; return it on ``device``, and its number of classes.

    Raises:
        ModelError: it cannot be loaded, or is not a classifier.
        UsageError: ``model`` is given, which only names the teacher of a checkpoint.
    """
    teacher = source.load()  # before the next check: this may be a mistyped checkpoint
    check_unused(f"{source.spelled} is a float model", model=model)
    return teacher, place_classifier(teacher, device)


def read_folder(target: str, revision: str | None, read: Callable[[Path], T]) -> T | None:
    """Read the folder of the checkpoint that ``target`` names, fetched from the Hub if needed; None if it names none.

    Raises:
        IntraqError: the checkpoint cannot be fetched, or raised by ``read``; it names the target as the user spelled
            it, not the Hub's cache.
    """
    folder = _folder(target, revision)
    try:
        return None if folder is None else read(folder)
    except IntraqError as error:
        if os.path.isdir(target):  # it is that folder, and a name as short as "q" may be part of other words
            raise
        error.message, error.hint = (text.replace(str(folder), target) for text in (error.message, error.hint))
        error.args = (error.message,)
        raise


def _folder(target: str, revision: str | None) -> Path | None:
    if os.path.isdir(target):  # before a bundled model of the same name
        if revision:
            raise UsageError(f"--revision {revision}: {target} is a folder and has no revisions", "leave it out")
        return Path(target) if is_checkpoint(Path(target)) else None
    source = Source.parse(target, revision=revision)
    return fetch_checkpoint(source.name) if source.kind == "hub" else None


def teacher_of(
    checkpoint: Checkpoint | Exported, given: Source | None, weights: str | Path | None, report: Report, from_hub: bool
) -> Teacher:
    """Load the float network that a checkpoint was made from, without running code that the user did not name.

    Args:
        checkpoint: a checkpoint or an exported file.
        given: the teacher that the user names; None: the one in the manifest.
        weights: a file to use instead of the weights that the manifest names.
        report: receives a warning if the weights are not those that the checkpoint was made from.
        from_hub: whether the manifest comes from the Hub; paths in it are then not followed.

    Raises:
        CheckpointError: the manifest names no teacher.
        ModelError: the teacher cannot be loaded.
    """
    noted = checkpoint.run.get("teacher") or {}
    source = given or _noted_source(noted, weights, from_hub)
    try:
        teacher = source.taking(checkpoint.spec).load()
    except ModelError as error:
        raise ModelError(f"the float model cannot be loaded: {error.message}", AGAIN) from error
    if noted.get("sha256") not in (None, teacher.sha256):
        report(Warned(f"the float weights of {source.spelled} are not those that the checkpoint was made from"))
    return teacher


def _noted_source(noted: dict[str, Any], weights: str | Path | None, from_hub: bool) -> Source:
    """Return the source of the teacher that a manifest names."""
    name = noted.get("source")
    if not isinstance(name, str):
        raise CheckpointError(
            "the checkpoint does not say which model it was made from", "give its float model with --model"
        )
    if needs_code(name):
        raise ModelError(
            f"the checkpoint was made from {name}, whose code it does not contain", "add --model file.py:factory"
        )
    file = noted.get("weights") if weights is None else None
    try:
        source = Source.parse(name, weights=weights or file)
        if source.kind == "hub" and noted.get("revision"):  # the exact commit, even if the branch has moved on
            source = Source.parse(split_revision(name)[0], revision=noted["revision"])
    except IntraqError as error:
        raise ModelError(f"the float model cannot be loaded: {error.message}", AGAIN) from error
    if from_hub and (file or source.kind == "folder"):
        what = f"{file or name} is a path, and paths from the Hub or from a file's metadata are not followed"
        raise ModelError(f"the float model cannot be loaded: {what}", AGAIN)
    return source
