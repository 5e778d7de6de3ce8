"""What a target names: a checkpoint, an exported file, and the float teacher that either was made from."""

import os
from pathlib import Path
from typing import Any

import torch

from intraq_cli.checkpoint.read import Checkpoint, is_checkpoint, read_checkpoint
from intraq_cli.deploy.exported import Exported, open_exported
from intraq_cli.errors import CheckpointError, IntraqError, ModelError, UsageError, check_unused
from intraq_cli.events import Report, Warned
from intraq_cli.models.hub import split_revision
from intraq_cli.models.hub_source import fetch_checkpoint
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import Teacher

AGAIN = "name the float model that it was made from: --model, and --weights if it was made from a file"


def find_checkpoint(target: str, code: Source | None, device: torch.device, revision: str | None) -> Checkpoint | None:
    """The checkpoint that ``target`` names, in a folder or on the Hub; None if it names no checkpoint.

    Args:
        target: as the user spelled it.
        code: what builds the network, for a checkpoint that does not say it.
        device: where to put the network.
        revision: of a repository on the Hub.

    Raises:
        IntraqError: it is damaged, or cannot be had.
    """
    folder = find_folder(target, revision)
    return None if folder is None else read_checkpoint(folder, code, device)


def find_quantized(
    target: str, code: Source | None, device: torch.device, revision: str | None, override: InputOverride
) -> Checkpoint | Exported | None:
    """What ``target`` names, a checkpoint or an exported file; None if it names neither.

    Args:
        target: as the user spelled it; empty for a module.
        code: as for :func:`find_checkpoint`.
        device: as for :func:`find_checkpoint`.
        revision: as for :func:`find_checkpoint`.
        override: what the user says of the input, which a quantized network knows by itself.

    Raises:
        IntraqError: it is damaged, or cannot be had.
    """
    if target.endswith(".onnx"):
        check_unused(f"{target} is a file", revision=revision)
        found: Checkpoint | Exported | None = open_exported(Path(target))
    else:
        found = find_checkpoint(target, code, device, revision) if target else None
    if found is not None and override.stated:
        raise UsageError("a checkpoint knows its own input", "leave out --input-size, --mean, --std and their like")
    return found


def find_folder(target: str, revision: str | None) -> Path | None:
    """The folder of the checkpoint that ``target`` names, fetched from the Hub if need be; None if it names none.

    Raises:
        IntraqError: it cannot be had.
    """
    if os.path.isdir(target):  # before a bundled model of the same name
        if revision:
            raise UsageError(f"--revision {revision}: {target} is a folder", "leave it out")
        return Path(target) if is_checkpoint(Path(target)) else None
    source = Source.parse(target, revision=revision)
    return fetch_checkpoint(source.name) if source.kind == "hub" else None


def teacher_of(
    checkpoint: Checkpoint | Exported, given: Source | None, weights: str | Path | None, report: Report, from_hub: bool
) -> Teacher:
    """The float network that a checkpoint was made from; never runs code that the user did not name.

    Args:
        checkpoint: as it was read, or an exported file.
        given: the teacher as the user names it; None: the one in the manifest.
        weights: a file in place of the weights that the manifest names.
        report: warned if the weights are not those that the checkpoint was made from.
        from_hub: whether the manifest comes from the Hub: paths in it mean nothing here.

    Raises:
        CheckpointError: the manifest names no teacher.
        ModelError: the teacher cannot be had.
    """
    noted = checkpoint.run.get("teacher") or {}
    source = given or _noted_source(noted, weights, from_hub)
    try:
        teacher = source.taking(checkpoint.spec).load()
    except ModelError as error:
        raise ModelError(f"the float teacher cannot be had: {error.message}", AGAIN) from error
    if noted.get("sha256") not in (None, teacher.sha256):
        report(Warned(f"the float weights of {source.spelled} are not those that the checkpoint was made from"))
    return teacher


def _noted_source(noted: dict[str, Any], weights: str | Path | None, from_hub: bool) -> Source:
    """The teacher that a manifest names."""
    name = noted.get("source")
    if not isinstance(name, str):
        raise CheckpointError("the checkpoint does not say what it was made from", "name its teacher with --model")
    if needs_code(name):
        raise ModelError(f"the checkpoint was made from {name}", "name it again: --model file.py:factory")
    file = noted.get("weights") if weights is None else None
    try:
        source = Source.parse(name, weights=weights or file)
        if source.kind == "hub" and noted.get("revision"):  # the very weights, whatever came after, on a branch too
            source = Source.parse(split_revision(name)[0], revision=noted["revision"])
    except IntraqError as error:
        raise ModelError(f"the float teacher cannot be had: {error.message}", AGAIN) from error
    if from_hub and (file or source.kind == "folder"):
        what = f"it was made from {file or name}, and paths in a file's metadata or from the Hub are not followed"
        raise ModelError(f"the float teacher cannot be had: {what}", AGAIN)
    return source
