"""``synthesize``: learn synthetic images from nothing but a network."""

import time
from dataclasses import asdict, replace
from pathlib import Path

from intraq_cli.api.arguments import BatchSize, Model, Numbers, Seed, Size, Text, Texts, verb
from intraq_cli.errors import UsageError
from intraq_cli.events import Report, silent
from intraq_cli.io.atomic import atomic_file, atomic_folder, check_apart
from intraq_cli.jobs.forecast import forecast_cost
from intraq_cli.jobs.manifest import origin_of
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.preparation import capture_on_device, check_free, load_teacher
from intraq_cli.jobs.recipes import chosen_recipe, tell_unused
from intraq_cli.models.class_names import class_names
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.results import SynthesisResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.metrics import to_tensorboard
from intraq_cli.synthesis.image_set import ImageSet, save_images
from intraq_cli.synthesis.rendering import is_class_folders, write_class_folders
from intraq_cli.words import spelled_path


@verb
def synthesize(
    model: Model,
    *,
    n: int | None = None,
    out: str | Path | None = None,
    png: str | Path | None = None,
    recipe: Text = "default",
    set: Texts = (),  # noqa: A002 - the option's own name
    device: Text = "auto",
    seed: Seed = 0,
    force: bool = False,
    resume: bool = True,
    batch_size: BatchSize = None,
    deterministic: bool = False,
    dry_run: bool = False,
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    weights: str | Path | None = None,
    tensorboard: str | Path | None = None,
    report: Report = silent,
) -> SynthesisResult:
    """Learn synthetic images from nothing but a network, and write them to a safetensors file.

    Args:
        model: the teacher, written as in the README, or the ``nn.Module`` itself.
        n: number of images; default: the recipe's.
        out: the file; default ``NAME-images.safetensors``.
        png: a folder to write the images into as PNG files as well; see :func:`intraq_cli.images`.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides of the recipe: a list of ``section.key=value``, or a dict ``{"section.key": value}``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: seed of every random draw.
        force: replace an existing file.
        resume: continue an interrupted run of the same job from its saved state.
        batch_size: micro-batch size; gradients are accumulated, so results are the same; default: what fits in memory.
        deterministic: make runs on a GPU reproducible to the bit, which takes longer; runs on a CPU always are.
        dry_run: check everything, estimate time and memory, and write nothing.
        input_size: (C, H, W), if the model does not state it.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        crop_pct: side of the centre crop divided by the resized image's shorter side, if the model does not state it.
        interpolation: ``bicubic``, ``bilinear``, ..., if the model does not state it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        tensorboard: a folder to write the losses into, for TensorBoard.
        report: function that receives an event for every step.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    started = time.perf_counter()
    report = to_tensorboard(report, tensorboard)
    settings = chosen_recipe(recipe, [*set, *([f"synthesis.num_images={n}"] if n is not None else [])])
    if not settings.synthesis.num_images:
        raise UsageError(
            f"recipe {settings.name} makes no images", "give their number with -n, or choose another --recipe"
        )
    tell_unused(set, report)
    where = choose_device(device, deterministic)
    _check_outputs(out, png, force)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = load_teacher(source)
    path = Path(out or f"{teacher.name}-images.safetensors")
    _check_outputs(path, png, force)
    captured = capture_on_device(teacher, where, report)
    job = Job(teacher, captured, settings, RunContext(seed, where, report, batch_size, deterministic=deterministic))
    shown = None if png is None else Path(png)
    result = _result(job, path, source, shown)
    if dry_run:
        return replace(result, dry_run=True, forecast=forecast_cost(job, None, None, time.perf_counter() - started))
    origin = origin_of(teacher, captured, settings, seed)
    with job.started(path, {"job": "synthesize", **origin, "input": asdict(teacher.spec)}, resume) as job:
        started -= job.context.store.before
        made = job.synthesize()
        if job.context.ranks.rank == 0:
            names = class_names(teacher, captured.num_classes)
            with atomic_file(path, force) as scratch:
                save_images(scratch, ImageSet(made, origin, teacher.spec, names))
                if shown is not None:  # write both or neither, so that the same command can continue
                    with atomic_folder(shown, force, is_class_folders) as folder:
                        write_class_folders(folder, made, teacher.spec, names)
    return replace(
        result,
        seconds=time.perf_counter() - started,
        losses=made.losses,
        teacher_accuracy=100 * made.teacher_accuracy,
        heterogeneity=made.heterogeneity,
    )


def _check_outputs(out: str | Path | None, png: str | Path | None, force: bool) -> None:
    check_free(out, force)
    check_free(png, force, is_class_folders)
    if out is not None and png is not None:
        check_apart(Path(out), Path(png))


def _result(job: Job, path: Path, source: Source, png: Path | None) -> SynthesisResult:
    """Return the result with the fields that are known before the images are made."""
    return SynthesisResult(
        path=spelled_path(path),
        model=source.spelled,
        n=job.recipe.synthesis.num_images,
        image_shape=job.teacher.spec.input_size,
        seed=job.context.seed,
        device=str(job.context.device),
        png=None if png is None else str(png),
    )
