"""``sensitivity``: the divergence when each layer alone is quantized, without data."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from intraq_cli.api.arguments import BatchSize, Model, Numbers, Paths, Seed, Size, Text, Texts, verb
from intraq_cli.choices import Placement
from intraq_cli.errors import UsageError
from intraq_cli.events import Report, silent
from intraq_cli.graph.fingerprint import fingerprint
from intraq_cli.io.atomic import atomic_file
from intraq_cli.io.json_files import write_json
from intraq_cli.jobs.asked_bits import asked_widths
from intraq_cli.jobs.given_images import digest_of_images, given_images
from intraq_cli.jobs.manifest import origin_of
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.preparation import capture_on_device, check_free, load_teacher
from intraq_cli.jobs.recipes import chosen_recipe, tell_unused
from intraq_cli.jobs.sensitivities import image_count, measured
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.quantization.plan import form_of
from intraq_cli.quantization.sensitivity import TEMPERATURE, Widths
from intraq_cli.results import SensitivityResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.words import spelled_path

WIDTHS = (2, 3, 4, 6, 8)


@verb
def sensitivity(
    model: Model,
    *,
    widths: Sequence[int] = WIDTHS,
    n: int | None = None,
    images: Paths = (),
    out: str | Path | None = None,
    act_placement: Placement = "inputs",
    recipe: Text = "default",
    set: Texts = (),  # noqa: A002 - the option's own name
    device: Text = "auto",
    seed: Seed = 0,
    force: bool = False,
    resume: bool = True,
    batch_size: BatchSize = None,
    deterministic: bool = False,
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    weights: str | Path | None = None,
    report: Report = silent,
) -> SensitivityResult:
    """Measure how far the network's predictions move when one layer alone is quantized, on synthetic images.

    The reverse is measured too: how far they move when all layers but one are quantized. Predictions are compared at a
    temperature of 4 (Hinton et al. 2015), because the network is overconfident on its synthetic images.

    Args:
        model: the teacher, written as in the README, or the ``nn.Module`` itself.
        widths: bits to try, 2 to 8 each.
        n: number of images, synthesized unless ``images`` is given; default: 64 to 256, more if they are small.
        images: a file that ``synthesize`` wrote (its first ``n`` images are used), a folder of pictures, or both.
        out: the file to write, for the argument ``sensitivity`` of ``quantize``; allows an interrupted run to continue.
        act_placement: as for ``quantize``.
        recipe: recipe for the images.
        set: overrides of the recipe: a list of ``section.key=value``, or a dict ``{"section.key": value}``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: seed of every random draw.
        force: replace an existing file.
        resume: continue an interrupted run of the same job from its saved state.
        batch_size: micro-batch size while images are made; default: what fits in memory.
        deterministic: make runs on a GPU reproducible to the bit, which takes longer; runs on a CPU always are.
        input_size: (C, H, W), if the model does not state it.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        crop_pct: side of the centre crop divided by the resized image's shorter side, if the model does not state it.
        interpolation: ``bicubic``, ``bilinear``, ..., if the model does not state it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        report: function that receives an event for every step.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    started = time.perf_counter()
    chosen = asked_widths("--widths", widths)
    if n is not None and n < 2:
        raise UsageError(f"-n {n}: must be at least 2", "64 images are enough to compare layers")
    settings = chosen_recipe(recipe, set)
    tell_unused(set, report)
    where = choose_device(device, deterministic)
    check_free(out, force)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = load_teacher(source)
    captured = capture_on_device(teacher, where, report)
    graph = form_of(captured.graph, act_placement)
    n = n or image_count(teacher.spec)
    settings = replace(settings, synthesis=replace(settings.synthesis, num_images=n))
    made = given_images(images, source, teacher, captured, n, seed, report)
    job = Job(teacher, captured, settings, RunContext(seed, where, report, batch_size, deterministic=deterministic))
    identity = {
        "job": "sensitivity",
        **origin_of(teacher, captured, settings, seed),
        "input": asdict(teacher.spec),
        "images": digest_of_images(made),
        "bits": chosen,
        "placement": act_placement,
        "temperature": TEMPERATURE,
    }
    path = Path(out) if out else None
    with job.started(path, identity, resume) if path else nullcontext(job) as job:
        started -= job.context.store.before
        shown = (made or job.synthesize()).images[:n]
        found = measured(job, graph, act_placement, shown, Widths(chosen, chosen, chosen))
        about = _about(job, source, act_placement, path)
        seconds = time.perf_counter() - started
        result = SensitivityResult(
            n=len(shown), widths=[*chosen], layers=found.layers, everything=found.everything, seconds=seconds, **about
        )
        if path and job.context.ranks.rank == 0:
            with atomic_file(path, force) as scratch:
                write_json(scratch, asdict(result))
    return result


def _about(job: Job, source: Source, placement: Placement, path: Path | None) -> dict[str, Any]:
    """Return the result's fields about the network and how it was measured."""
    return {
        "path": spelled_path(path) if path else None,
        "model": source.spelled,
        "act_placement": placement,
        "sha256": job.teacher.sha256,
        "network": fingerprint(job.captured.graph),
        "input_size": job.teacher.spec.input_size,
        "temperature": TEMPERATURE,
        "seed": job.context.seed,
        "device": str(job.context.device),
    }
