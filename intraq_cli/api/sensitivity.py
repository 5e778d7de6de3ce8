"""``sensitivity``: the divergence when each layer alone is quantized, without data."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from intraq_cli.api.arguments import BatchSize, Model, Numbers, Paths, Seed, Size, Text, Texts, verb
from intraq_cli.errors import UsageError
from intraq_cli.events import Report, silent
from intraq_cli.graph.fingerprint import fingerprint
from intraq_cli.io.atomic import atomic_file
from intraq_cli.io.json_files import write_json
from intraq_cli.jobs.given_images import digest_of_images, given_images
from intraq_cli.jobs.manifest import origin_of
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.recipes import chosen_recipe, tell_unused
from intraq_cli.jobs.sensitivities import image_count, measured
from intraq_cli.jobs.teachers import capture_on_device, check_free, load_teacher
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.quantization.plan import asked_widths, form_of
from intraq_cli.quantization.sensitivity import TEMPERATURE, Widths
from intraq_cli.recipe import Placement
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
    """Say how far the network's answers move when one layer alone goes to few bits, on synthetic images.

    And the other way round: how far they are when everything is at few bits, and one layer alone stays float. Answers
    are compared at a temperature of 4 (Hinton et al. 2015): the network is too sure of its synthetic images.

    Args:
        model: the teacher, as the README spells it, or the ``nn.Module`` itself.
        widths: bits to try, 2 to 8 each.
        n: images; they are made unless ``images`` names some. Default: 64 to 256, the more the smaller they are.
        images: what ``synthesize`` wrote, of which the first ``n`` are used, or a folder of pictures, or both.
        out: a file that ``quantize`` takes as ``sensitivity``; an interrupted run then goes on.
        act_placement: as for ``quantize``.
        recipe: of the images.
        set: overrides, ``section.key=value`` each, or a dict: ``{"section.key": value}``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        force: replace an existing file.
        resume: go on from what an interrupted run of the same job has kept.
        batch_size: micro-batch size while images are made; default: what fits.
        deterministic: the same bits at every run on a GPU too, which takes longer; a CPU always gives them.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, where the model does not say it.
        interpolation: ``bicubic``, ``bilinear``, ..., where the model does not say it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    chosen = asked_widths("--widths", widths)
    if n is not None and n < 2:
        raise UsageError(f"-n {n}: at least two images", "64 tell layers apart")
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
    """The network and the way that it was measured, as the result has them."""
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
