"""``evaluate``: top-1 and top-5 of a network and of its float teacher."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from intraq_cli.api.loading import find_checkpoint, teacher_of
from intraq_cli.api.pipeline import EVALUATION_BATCH, out_of_memory
from intraq_cli.checkpoint.read import is_checkpoint
from intraq_cli.errors import ModelError, UsageError
from intraq_cli.evaluation.accuracy import compare
from intraq_cli.evaluation.data import open_data
from intraq_cli.events import Report, StageDone, StageStarted, silent
from intraq_cli.models.source import InputOverride, load_teacher
from intraq_cli.models.teacher import Teacher, check_classifier
from intraq_cli.publish.repository import check_record, record
from intraq_cli.results import (
    EvaluationResult,
)
from intraq_cli.runtime.device import choose_device, place


def evaluate(
    target: str,
    data: str,
    *,
    model: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = EVALUATION_BATCH,
    device: str = "auto",
    seed: int = 0,
    revision: str | None = None,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weights: str | Path | None = None,
    save: bool = False,
    report: Report = silent,
) -> EvaluationResult:
    """Measure a checkpoint, or a float model, and the float teacher on the same images.

    Args:
        target: a checkpoint folder, the Hub id of one, or a float model.
        data: a folder of class folders, ``cifar10``, ``cifar100``, ``digits`` or ``hfds:ORG/NAME``.
        model: the teacher again, for a checkpoint whose teacher cannot be found by itself (``file.py:factory``).
        data_dir: where ``cifar10`` and ``cifar100`` lie.
        split: of a data set on the Hub.
        limit: measure on a seeded random sample of so many images.
        batch_size: images at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of the sample.
        revision: of a checkpoint on the Hub.
        input_size: (C, H, W), where a float model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        weights: of the teacher: a safetensors or ``.pth`` file, in place of timm's weights.
        save: note the figures in the checkpoint folder that ``target`` is, and in its card.
        report: told of every batch.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    folder = Path(target)
    if save:
        if not is_checkpoint(folder):
            raise UsageError(f"--save: {target} is no checkpoint folder", "figures are noted in the folder measured")
        check_record(folder)
    where = choose_device(device)
    override = InputOverride(input_size, mean, std)
    checkpoint = find_checkpoint(target, model, where, revision)
    if checkpoint is None:
        teacher = load_teacher(f"{target}@{revision}" if revision else target, override, weights)
        labels, num_classes = teacher.label_names, _num_classes(teacher, where)
        network: nn.Module = teacher.network
    elif override != InputOverride():
        raise UsageError("a checkpoint knows its own input", "leave out --input-size, --mean and --std")
    else:
        teacher = teacher_of(checkpoint, model, weights, report, from_hub=not Path(target).is_dir())
        labels, num_classes = checkpoint.label_names, checkpoint.num_classes
        theirs = _num_classes(teacher, where)
        if theirs != num_classes:
            raise ModelError(
                f"{teacher.source} has {theirs} classes, the checkpoint {num_classes}",
                "name the float model that it was made from: --model",
            )
        network = checkpoint.network
    spec = teacher.spec if checkpoint is None else checkpoint.spec
    images = open_data(data, spec, num_classes, labels, data_dir, split).sample(limit, seed)
    report(StageStarted("evaluation", -(-images.count // batch_size), f"{images.count} images"))
    with out_of_memory():
        accuracy = compare(network, teacher.network, images.batches(batch_size, report), where, report)
    seconds = time.perf_counter() - started
    report(StageDone("evaluation", seconds))
    result = EvaluationResult(target, images.name, **asdict(accuracy), seconds=seconds, device=str(where))
    if checkpoint is None or not save:
        return result
    drawn = {"limit": limit, "seed": None if limit is None else seed}
    figures = {key: value for key, value in asdict(result).items() if key not in ("target", "saved")}
    part = (split or "test") if data.startswith("hfds:") else None
    record(folder, checkpoint, {**figures, "split": part, **drawn}, report)
    return replace(result, saved=str(folder / "run.json"))


def _num_classes(teacher: Teacher, device: torch.device) -> int:
    place(teacher.network, device)
    return check_classifier(teacher)
