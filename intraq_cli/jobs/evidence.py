"""What is measured and recorded during a run for its report."""

from dataclasses import asdict
from typing import Any

import torch

from intraq_cli.jobs.pipeline import Job
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.ranges import worst_ranges
from intraq_cli.reports.folder import THUMBNAILS
from intraq_cli.synthesis.rendering import shown_on_sheet
from intraq_cli.synthesis.tuning_images import TuningImages, hold_out

SHOWN_RANGES = 6
"""Activations whose values the report shows."""
AT_ONCE = 16
"""Micro-batch size, for the ranges and for the teacher's predictions on the shown images."""


@torch.no_grad()
def evidence(job: Job, student: QuantizedNetwork, made: TuningImages | None) -> dict[str, Any]:
    """Measure for ``run.json``: the activations with the worst ranges, and the teacher's predictions on shown images.

    Args:
        job: the job of the run.
        student: the quantized network, frozen, on the job's device.
        made: the images of the run; None: there is nothing to measure on.
    """
    if made is None:
        return {}
    device = job.context.device
    _, held_out = hold_out(made, job.recipe.tuning.holdout)
    seen = worst_ranges(student, held_out[:AT_ONCE].to(device, torch.float32), SHOWN_RANGES)
    shown = made.shown()
    return {"ranges": [asdict(one) for one in seen], "samples": _samples(job, shown) if shown else []}


def _samples(job: Job, made: TuningImages) -> list[dict[str, Any]]:
    chosen = shown_on_sheet(made.labels, job.teacher.spec)[1][:THUMBNAILS]  # the report takes them from the sheet
    images, labels = made.images[chosen].to(job.context.device, torch.float32), made.labels[chosen]
    shares = torch.cat([job.teacher.logits(part) for part in images.split(AT_ONCE)]).softmax(1).cpu()
    confidence = 100 * shares.gather(1, labels[:, None])[:, 0]
    columns = labels.tolist(), confidence.tolist(), shares.argmax(1).tolist()
    return [{"label": k, "confidence": c, "first": f} for k, c, f in zip(*columns, strict=True)]
