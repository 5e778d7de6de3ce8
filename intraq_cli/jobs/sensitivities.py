"""Sensitivities: measured as a stage of a job, or read from an earlier measurement."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, fx

from intraq_cli.choices import Placement
from intraq_cli.errors import DataError
from intraq_cli.events import StageDone, StageStarted, StepDone
from intraq_cli.graph.fingerprint import is_other_code
from intraq_cli.io.untrusted import MAX_JSON, read_text
from intraq_cli.jobs.pipeline import Job
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.sensitivity import Known, Sensitivities, Widths, layer_sensitivities
from intraq_cli.results import SensitivityResult
from intraq_cli.runtime.torch_errors import out_of_memory

FEWEST, MOST = 64, 256
"""Bounds of the number of images. Small images are cheap; small divergences need many images to rank the layers."""
PIXELS = 64 * 160**2
"""Pixels of all images together, within these bounds."""
HINT = "make one with `intraq sensitivity MODEL --out FILE`"


def image_count(spec: InputSpec) -> int:
    """Return the default number of images to measure sensitivities on."""
    _, height, width = spec.input_size
    return min(MOST, max(FEWEST, PIXELS // (height * width)))


def measured(job: Job, graph: fx.GraphModule, placement: Placement, images: Tensor, widths: Widths) -> Sensitivities:
    """Measure sensitivities as a stage of a job, whose resume store keeps the result, and until then its parts.

    Args:
        job: the job of the network.
        graph: graph of the network, in the form of the placement.
        placement: placement of the activation quantizers.
        images: ``(B, C, H, W)``, normalised.
        widths: widths to try.

    Raises:
        DeviceError: out of memory.
    """
    kept, ranks, report = job.context.store, job.context.ranks, job.context.report
    known: Known = {}

    def step(done: int, count: int) -> None:
        started = StageStarted("sensitivity", count, f"{len(images)} images")
        report(StepDone("sensitivity", done, done * len(images)) if done else started)
        kept.save_periodically("divergences", lambda: known)

    kept.began("sensitivity")
    said = ranks.broadcast_object(kept.load("sensitivity"))
    if said is None:
        known |= ranks.broadcast_object(kept.load("divergences")) or {}
        with out_of_memory("measure on fewer images with `intraq sensitivity MODEL -n 32 --out FILE`"):
            shown = images.to(job.context.device, torch.float32, memory_format=torch.channels_last)
            found = layer_sensitivities(graph, placement, shown, widths, step, known)
        # on GPUs the results of processes differ in the last bits, but all must make the same choice
        said = ranks.broadcast_object(json.dumps(asdict(found)))
        kept.save("sensitivity", said)
        kept.drop("divergences")
    else:
        step(0, 1)
    report(StageDone("sensitivity", kept.ended("sensitivity")))
    return TypeAdapter(Sensitivities).validate_json(said)


def read_sensitivity(path: Path) -> SensitivityResult:
    """Read what ``sensitivity`` wrote or printed as JSON.

    Raises:
        DataError: the file is something else.
    """
    text = read_text(path, MAX_JSON, DataError)
    try:
        return TypeAdapter(SensitivityResult).validate_json(text)
    except ValidationError as error:
        raise DataError(f"{path} is not a sensitivity file", HINT) from error


def check_origin(found: SensitivityResult, teacher: Teacher, captured: Captured, placement: Placement) -> None:
    """Check that sensitivities are of this network.

    Raises:
        DataError: they were measured on other weights, other code or another input, or for another placement.
    """
    if found.act_placement != placement:
        what = f"the sensitivities were measured for placement {found.act_placement}, not {placement}"
        raise DataError(what, HINT)
    if found.sha256 != teacher.sha256:
        raise DataError(f"the sensitivities were measured on other weights ({found.model})", HINT)
    if is_other_code(found.network, captured.graph):
        raise DataError(f"the sensitivities were measured with other code of the network ({found.model})", HINT)
    if found.input_size != teacher.spec.input_size:
        size = ",".join(map(str, found.input_size))
        raise DataError(f"the sensitivities were measured on images of size {size}, not {teacher.spec.size}", HINT)
