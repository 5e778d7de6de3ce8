"""What verbs do before their work: check that the output can be written; load the float network and capture it."""

from pathlib import Path

import torch

from intraq_cli.events import Report, Warned
from intraq_cli.io.atomic import IsOutput, check_output
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import (
    Captured,
    Teacher,
    capture_teacher,
    captured_on_device,
    check_batch_norms,
    doubts,
    place_teacher,
)
from intraq_cli.runtime.launch import launched


def load_teacher(source: Source) -> Teacher:
    """Load the teacher; one without batch norm is refused before its weights are downloaded."""
    if source.is_downloaded:
        check_batch_norms(source.on_meta())
    return source.load()


def capture_on_device(teacher: Teacher, device: torch.device, report: Report) -> Captured:
    """Capture the teacher, check that it can be quantized, and move it to ``device``; report doubts as warnings."""
    place_teacher(teacher, "cpu")
    captured = capture_teacher(teacher)
    if device.type != "cpu":
        captured = captured_on_device(captured, teacher, device)
    if launched().rank == 0:
        for doubt in doubts(captured):
            report(Warned(f"{teacher.source}: {doubt}"))
    return captured


def check_free(path: str | Path | None, force: bool, is_output: IsOutput | None = None) -> None:
    """Refuse an output that exists, see :func:`check_output`; only the first process of a job checks."""
    if path is not None and launched().rank == 0:
        check_output(Path(path), force, is_output)
