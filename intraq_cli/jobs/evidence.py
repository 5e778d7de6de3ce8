"""What is measured and kept of a run, so that its report can show it."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from intraq_cli.jobs.pipeline import Job
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.ranges import worst_ranges
from intraq_cli.reports.page import write_report
from intraq_cli.runtime.metrics import METRICS, Metrics
from intraq_cli.synthesis.pictures import shown_on_sheet
from intraq_cli.synthesis.tuning_images import TuningImages, hold_out

SHOWN_IMAGES = 24
"""Synthetic images in the report."""
SHOWN_RANGES = 6
"""Activations whose values are shown."""
AT_ONCE = 16
"""Images that go through a network together: for the ranges, and for what the teacher makes of those shown."""


def recorded(job: Job) -> tuple[Job, Metrics]:
    """A started job whose steps are noted, and what notes them."""
    metrics = Metrics(job.context.report, job.context.store)
    return replace(job, context=replace(job.context, report=metrics.report)), metrics


@torch.no_grad()
def evidence(job: Job, student: QuantizedNetwork, made: TuningImages | None) -> dict[str, Any]:
    """For ``run.json``: the activations that suffer most, and what the teacher makes of the images that are shown.

    Args:
        job: of the run.
        student: frozen, on the device of the job.
        made: what was tuned on; None: there is nothing to measure on.
    """
    if made is None:
        return {}
    device = job.context.device
    _, held_out = hold_out(made, job.recipe.tuning.holdout)
    seen = worst_ranges(student, held_out[:AT_ONCE].to(device, torch.float32), SHOWN_RANGES)
    shown = made.shown()
    return {"ranges": [asdict(one) for one in seen], "samples": _samples(job, shown) if shown else []}


def _samples(job: Job, made: TuningImages) -> list[dict[str, Any]]:
    chosen = shown_on_sheet(made.labels, job.teacher.spec)[1][:SHOWN_IMAGES]  # that is where the report has them from
    images, labels = made.images[chosen].to(job.context.device, torch.float32), made.labels[chosen]
    shares = torch.cat([job.teacher.logits(part) for part in images.split(AT_ONCE)]).softmax(1).cpu()
    confidence = 100 * shares.gather(1, labels[:, None])[:, 0]
    columns = labels.tolist(), confidence.tolist(), shares.argmax(1).tolist()
    return [{"label": k, "confidence": c, "first": f} for k, c, f in zip(*columns, strict=True)]


def write_evidence(folder: Path, metrics: Metrics) -> None:
    """Put the steps, and the report of all that lies in it, into a checkpoint ``folder``."""
    if metrics.steps:
        metrics.write(folder / METRICS)
    write_report(folder)
