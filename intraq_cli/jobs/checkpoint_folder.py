"""The last step of ``quantize``: its folder is written atomically, and loaded once to verify it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intraq_cli.checkpoint.config import checkpoint_config, is_own_checkpoint
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.checkpoint.write import checkpoint_tensors, write_weights
from intraq_cli.errors import IntraqError, ModelError
from intraq_cli.graph.nodes import draws_numbers
from intraq_cli.graph.proof import SAME, same_logits
from intraq_cli.io.atomic import atomic_folder
from intraq_cli.io.json_files import jsonable, write_json
from intraq_cli.jobs.bit_budget import Chosen
from intraq_cli.jobs.evidence import evidence
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.quantized_model import QuantizedModel
from intraq_cli.models.class_names import class_names
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.source import Source
from intraq_cli.publish.card import card_digest, model_card
from intraq_cli.reports.folder import REPORT, read_record
from intraq_cli.reports.page import html_page
from intraq_cli.runtime.metrics import METRICS, Metrics
from intraq_cli.synthesis.rendering import write_sheet
from intraq_cli.synthesis.tuning_images import TuningImages


@dataclass(frozen=True)
class Finished:
    """What a checkpoint folder is written from."""

    job: Job
    source: Source
    chosen: Chosen
    quantized: QuantizedModel
    made: TuningImages | None
    run: dict[str, Any]
    """The manifest, without the size and the time."""
    started: float
    """Start of the run, in seconds of :func:`time.perf_counter`."""
    metrics: Metrics


def write_folder(path: Path, force: bool, end: Finished) -> None:
    """Write the checkpoint, and record its size in bytes and the run's time in the manifest.

    Raises:
        OutputError: the folder cannot be written.
        ModelError: loading the checkpoint does not reproduce the network.
    """
    teacher, student, run = end.job.teacher, end.quantized.student, end.run
    usual = run["inspection"]["w_bits"], run["inspection"]["a_bits"]
    config = checkpoint_config(teacher, end.job.captured, end.chosen.plan, *usual)
    tensors = checkpoint_tensors(student, end.quantized.stored)
    run |= evidence(end.job, student, end.made)
    with atomic_folder(path, force, is_own_checkpoint) as folder:
        run["measured"]["bytes_quantized"] = write_weights(folder, tensors)
        write_json(folder / "config.json", config)
        _load_once(folder, end)
        run["seconds"] = time.perf_counter() - end.started
        card = model_card(config, jsonable(run))
        run["cards"] = [card_digest(card)]
        write_json(folder / "run.json", run)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if end.made and (shown := end.made.shown()):
            names = class_names(teacher, end.job.captured.num_classes)
            write_sheet(folder / "samples.png", shown, teacher.spec, names)
        if end.metrics.steps:
            end.metrics.write(folder / METRICS)
        (folder / REPORT).write_text(html_page(read_record(folder)), encoding="utf-8")


def _load_once(folder: Path, end: Finished) -> None:
    """Check that the written files reproduce the network.

    Raises:
        ModelError: they cannot be loaded, or the loaded network has other logits.
    """
    device = end.job.context.device
    what = f"the new checkpoint of {end.source.spelled} is wrong"
    hint = "nothing was written; report this network as a bug in intraq"
    try:
        loaded = read_checkpoint(folder, end.source if end.source.needs_code else None, device).network
    except IntraqError as error:
        raise ModelError(f"{what}: {error.message}", hint) from error
    images = random_pixels(end.job.teacher.spec, 2).to(device)
    tolerance = 0.0 if device.type == "cpu" else SAME  # a GPU sums in varying order
    student = end.quantized.student
    if not draws_numbers(student.graph) and not same_logits(student, loaded, images, tolerance):
        raise ModelError(f"{what}: its logits differ after loading", hint)
