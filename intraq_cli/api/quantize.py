"""``quantize``: turn a pretrained classifier into a quantized checkpoint folder, without data."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from torch import nn

from intraq_cli.api import export as exporting
from intraq_cli.api.arguments import BatchSize, Model, Numbers, Paths, Seed, Size, Text, Texts, Widths, verb
from intraq_cli.checkpoint.config import is_own_checkpoint
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.choices import Placement
from intraq_cli.deploy.libraries import check_packages
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.io.digests import file_digest
from intraq_cli.jobs.asked_bits import asked_bits
from intraq_cli.jobs.bit_budget import bit_choice
from intraq_cli.jobs.given_images import given_images
from intraq_cli.jobs.manifest import call
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.preparation import capture_on_device, check_free, load_teacher
from intraq_cli.jobs.quantization_run import QuantizationRun, timing
from intraq_cli.jobs.recipes import check_stages, chosen_recipe
from intraq_cli.jobs.time_left import reporting_time_left
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.quantization.budget import chosen_budget
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES
from intraq_cli.recipe import choose_placement
from intraq_cli.results import ExportResult, QuantizationResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.metrics import to_tensorboard
from intraq_cli.words import spelled_path


@verb
def quantize(
    model: Model,
    *,
    w: Widths = None,
    a: Widths = None,
    target_size: int | str | None = None,
    avg_bits: float | None = None,
    bops: float | str | None = None,
    sensitivity: str | Path | None = None,
    out: str | Path | None = None,
    recipe: Text = "default",
    set: Texts = (),  # noqa: A002 - the option's own name
    images: Paths = (),
    act_placement: Placement | None = None,
    first_last_bits: int | None = None,
    bits: str | Path | None = None,
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
    export: Literal["onnx"] | None = None,
    tensorboard: str | Path | None = None,
    suffix: str = "",
    command: str | None = None,
    report: Report = silent,
) -> QuantizationResult:
    """Quantize a pretrained classifier without data, and write a checkpoint folder.

    Args:
        model: the teacher, written as in the README, or the ``nn.Module`` itself.
        w: bits of weights, 2 to 8; default 4. With a budget: the bits to choose from for each layer; default all.
        a: bits of activations, 2 to 8; default 4, or 8 with a budget for the weights. With a budget of bit operations:
            the bits to choose from; default all.
        target_size: a budget: the size of ``model.safetensors``, in bytes or as ``2MB``.
        avg_bits: a budget: mean bits of a quantized weight.
        bops: a budget: bit operations for one image, as a number or as ``5G``.
        sensitivity: a file that ``sensitivity`` wrote; with a budget, its values are used and nothing is measured.
        out: the folder; default ``NAME-wWaA``, or a name with the budget.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides of the recipe: a list of ``section.key=value``, or a dict ``{"section.key": value}``.
        images: replaces stage 1: a file that ``synthesize`` wrote, a folder of pictures without labels, or one of each.
            The pictures nearest to the stored batch norm statistics are used, as many as the recipe makes images.
        act_placement: ``inputs`` (of every layer), ``activations`` (outputs of ReLU-like functions, as in the paper),
            or ``integer`` (all that an integer runtime needs); default: the recipe's, else ``inputs``.
        first_last_bits: bits of the first and the last layer's weights and, except with placement ``activations``, of
            the last layer's input; the image has 8 bits.
        bits: a TOML file with other bits for layers given by name, see :mod:`intraq_cli.quantization.bit_rules`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: seed of every random draw.
        force: replace an existing folder.
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
        export: also write ``model.onnx`` into the folder, and check it; see :func:`intraq_cli.export`.
        tensorboard: a folder to write the losses of both stages into, for TensorBoard.
        suffix: appended to the folder's name when this is one of several runs; a folder that an earlier call of the
            same run wrote is then reused.
        command: text to record as the command; default: this call.
        report: function that receives an event for every step.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    command = command or call(quantize, locals())
    started = time.perf_counter()
    report = to_tensorboard(report, tensorboard)
    budget = chosen_budget(target_size, avg_bits, bops)
    asked = asked_bits(w, a, budget, first_last_bits, bits, sensitivity)
    settings = chosen_recipe(recipe, set)
    placement = choose_placement(act_placement, settings)
    check_stages(settings, set, images, budget is not None and sensitivity is None, report)
    where = choose_device(device, deterministic)
    if export is not None:
        check_packages()
    if not suffix:
        check_free(out, force, is_own_checkpoint)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = load_teacher(source)
    path = Path(f"{out or f'{teacher.name}-{asked.label}'}{suffix}")
    taken_again = bool(suffix) and resume and not force and is_own_checkpoint(path)
    if not taken_again:
        check_free(path, force, is_own_checkpoint)
    captured = capture_on_device(teacher, where, report)
    choice = bit_choice(teacher, captured, placement, asked)
    wanted = max(settings.synthesis.num_images, CALIBRATION_IMAGES)
    stages: dict[str, float] = {}
    timed = timing(reporting_time_left(report, settings), stages)
    given = given_images(images, source, teacher, captured, wanted, seed, timed)
    context = RunContext(seed, where, timed, batch_size, deterministic=deterministic)
    run = QuantizationRun(Job(teacher, captured, settings, context), source, choice, given, path, started, stages)
    run.say_what_stays_float()
    if dry_run:
        return run.forecast()
    made = run.made_before() if taken_again else None
    if made:
        report(Noted(f"{path} already contains the result of the same run"))
    elif taken_again:
        check_free(path, force, is_own_checkpoint)
    result = made or run.carried_out(force, resume, command, images)
    if export is not None and launched().rank == 0:
        result = _exported(result, export, model, report)
    return result


def _exported(result: QuantizationResult, to: Literal["onnx"], model: Model, report: Report) -> QuantizationResult:
    """Export the checkpoint, unless an earlier call of the same run did, and return the result with its export.

    Raises:
        IntraqError: the export failed; the checkpoint is complete nevertheless.
    """
    path, started = result.path, time.perf_counter()
    if before := _exported_before(path):
        return replace(result, export=before, seconds=result.seconds + before.seconds)
    factory = str(model) if not isinstance(model, nn.Module) and needs_code(str(model)) else None
    code = model if isinstance(model, nn.Module) else factory
    try:
        exported = exporting.export(path, to=to, model=code, force=True, report=report)
    except BaseException:  # including an interruption
        again = shlex.join(["intraq", "export", path, *(["--model", factory] if factory else [])])
        what = f"the checkpoint {path} is complete, but was not exported"
        report(Warned(f"{what}; to export it: {again}"))
        raise
    return replace(result, export=exported, seconds=result.seconds + time.perf_counter() - started)


def _exported_before(path: str) -> ExportResult | None:
    """Return the recorded check of a checkpoint's ``model.onnx``; None if that file is missing or another one."""
    proof, file = read_run(Path(path)).get("export"), Path(path, exporting.FILE)
    if not proof or not file.is_file() or file_digest(file) != proof["sha256"]:
        return None
    try:
        return TypeAdapter(ExportResult).validate_python({**proof, "path": spelled_path(file)})
    except ValidationError:
        return None
