"""Images given by the user: synthetic ones from a file, pictures from a folder, or both."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from intraq_cli.errors import DataError, UsageError
from intraq_cli.evaluation.image_files import EXTENSIONS
from intraq_cli.evaluation.pictures import named_pictures, picture_batches
from intraq_cli.events import Noted, Report, StageDone, StageStarted, StepDone, Warned, silent
from intraq_cli.graph.fingerprint import is_other_code
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.runtime.launch import launched
from intraq_cli.synthesis.image_set import load_images
from intraq_cli.synthesis.nearest_images import BATCH, nearest_images
from intraq_cli.synthesis.tuning_images import TuningImages, shuffled_together

LOOKED_AT = 8
"""Candidate pictures per requested picture; a folder with more is sampled at random."""
UNLIKE = 0.5
"""If the BNS loss of all pictures together is above this, they do not resemble the network's training data."""


def given_images(
    images: Sequence[str | Path],
    source: Source,
    teacher: Teacher,
    captured: Captured,
    count: int,
    seed: int,
    report: Report,
) -> TuningImages | None:
    """Load images to calibrate and tune on, instead of synthesizing them; return None if none are given.

    Args:
        images: a file that ``synthesize`` wrote, a folder of pictures, or one of each.
        source: source of the teacher, as the user spelled it.
        teacher: the teacher, on its device.
        captured: the captured teacher.
        count: number of pictures to choose from a folder.
        seed: seed of the random choices.
        report: receives notes and warnings about the images.

    Raises:
        UsageError: several files or several folders.
        DataError: the images cannot be read, or do not fit the model.
    """
    folders = [Path(one) for one in images if Path(one).is_dir()]
    files = [Path(one) for one in images if not Path(one).is_dir()]
    if max(len(files), len(folders)) > 1:
        raise UsageError(
            "--images is given several files, or several folders",
            "give one file that `intraq synthesize` wrote, one folder of pictures, or one of each",
        )
    for file in files:
        if file.is_file() and file.suffix.lower() in EXTENSIONS:
            raise DataError(f"--images {file} is one picture, not a set of images", "give the folder that it is in")
    if launched().rank:
        report = silent
    made = [_synthetic(file, source, teacher, captured, report) for file in files]
    made += [_pictures(folder, teacher, captured, count, seed, report) for folder in folders]
    return shuffled_together(made[0], made[1], seed) if len(made) == 2 else next(iter(made), None)


def _synthetic(file: Path, source: Source, teacher: Teacher, captured: Captured, report: Report) -> TuningImages:
    made, origin = load_images(file, teacher.spec, captured.num_classes)
    if origin.get("sha256") != teacher.sha256:
        report(Warned(f"{file} was learned from other weights ({origin.get('model')}) than those of {source.spelled}"))
        return replace(made, learned_from=str(origin.get("model")))
    if is_other_code(origin.get("network"), captured.graph):
        report(Warned(f"{file} was made with other code than that of {source.spelled}"))
    return made


def _pictures(
    folder: Path, teacher: Teacher, captured: Captured, count: int, seed: int, report: Report
) -> TuningImages:
    pictures = named_pictures(folder)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[: LOOKED_AT * count]
    looked_at = [pictures[k] for k in sorted(order.tolist())]
    device, started = next(teacher.network.parameters()).device, time.perf_counter()

    def batches() -> Iterator[Tensor]:
        done = 0
        for step, (_, batch) in enumerate(picture_batches(looked_at, BATCH, teacher.spec, report), 1):
            done += len(batch)
            report(StepDone("pictures", step, done))
            yield batch.to(device)

    report(StageStarted("pictures", -(-len(looked_at) // BATCH), f"{len(looked_at)} of {len(pictures)} in {folder}"))
    made, _ = nearest_images(captured.graph, batches(), count, seed)
    report(StageDone("pictures", time.perf_counter() - started))
    bns = made.losses["bns"]
    used = f"{len(made.images)} of {len(pictures)} pictures in {folder}"
    report(Noted(f"using {used}: BNS {bns:.3g}; they stay on this machine and are not shown in any output"))
    if bns > UNLIKE:
        report(Warned(f"the pictures in {folder} do not resemble the network's training data (BNS {bns:.3g})"))
    return made


def digest_of_images(made: TuningImages | None) -> str | None:
    """Return the SHA-256 of the images and their labels, in hexadecimal; None if there are no images."""
    if made is None:
        return None
    digest = hashlib.sha256()
    for tensor in (made.images, made.labels):  # as bytes: numpy has no bfloat16
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
