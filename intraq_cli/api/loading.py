"""``load``: the network of a checkpoint; and the float teacher that it was made from."""

from pathlib import Path

import torch

from intraq_cli.checkpoint.read import Checkpoint, is_checkpoint, read_checkpoint
from intraq_cli.errors import CheckpointError, ModelError, UsageError
from intraq_cli.events import Report, Warned
from intraq_cli.models.source import InputOverride, fetch_checkpoint, is_factory, is_local, load_teacher
from intraq_cli.models.teacher import Teacher
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.runtime.device import choose_device


def load(
    target: str | Path, *, model: str | None = None, device: str = "auto", revision: str | None = None
) -> QuantizedNetwork:
    """The network of a checkpoint folder, or of one on the Hub: the very logits that it had when ``quantize`` ended.

    Args:
        target: a folder, or ``ORG/NAME``.
        model: the ``file.py:factory`` again, for a checkpoint that was made from one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        revision: of a repository on the Hub.

    Raises:
        IntraqError: no such checkpoint, or a damaged one.
    """
    checkpoint = find_checkpoint(str(target), model, choose_device(device), revision)
    if checkpoint is None:
        raise CheckpointError(
            f"{target} is no intraq checkpoint", "a checkpoint folder is what `intraq quantize` writes"
        )
    return checkpoint.network


def find_checkpoint(target: str, model: str | None, device: torch.device, revision: str | None) -> Checkpoint | None:
    """The checkpoint that ``target`` names, in a folder or on the Hub; None if it names no checkpoint."""
    folder = Path(target)
    if folder.is_dir():
        if revision:
            raise UsageError(f"--revision {revision}: {target} is a folder", "leave it out")
        return read_checkpoint(folder, model, device) if is_checkpoint(folder) else None
    fetched = fetch_checkpoint(target, revision)
    return read_checkpoint(fetched, model, device) if fetched else None


def teacher_of(
    checkpoint: Checkpoint, model: str | None, weights: str | Path | None, report: Report, from_hub: bool
) -> Teacher:
    """The float network that a checkpoint was made from; never runs code that the user did not name.

    A checkpoint from the Hub names no files here: what was a path there means something else here, if anything.
    """
    noted = checkpoint.run.get("teacher") or {}
    source = model or noted.get("source")
    if not isinstance(source, str):
        raise CheckpointError("the checkpoint does not say what it was made from", "name its teacher with --model")
    if model is None and is_factory(source):
        raise ModelError(f"the checkpoint was made from {source}", "name it again: --model file.py:factory")
    noted_file = noted.get("weights") if model is None and weights is None else None
    if from_hub and model is None and (noted_file or is_local(source)):
        raise ModelError(
            f"the checkpoint was made from files that are not here: {noted_file or source}",
            "name the float model that it was made from: --model, and --weights if it was made from a file",
        )
    spec = checkpoint.spec
    try:
        teacher = load_teacher(source, InputOverride(spec.input_size, spec.mean, spec.std), weights or noted_file)
    except ModelError as error:
        hint = "name the float model that it was made from: --model, and --weights if it was made from a file"
        raise ModelError(f"the float teacher cannot be had: {error.message}", hint) from error
    if noted.get("sha256") not in (None, teacher.sha256):
        report(Warned(f"the float weights of {source} are not those that the checkpoint was made from"))
    return teacher
