"""``quantize``: from a pretrained classifier to a checkpoint folder, without data."""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from intraq_cli.api import export as exporting
from intraq_cli.api.arguments import Model, Numbers, Paths, Seed, Size, Text, Texts, Widths, verb
from intraq_cli.checkpoint.read import is_own_checkpoint
from intraq_cli.checkpoint.write import check_storable
from intraq_cli.deploy.libraries import check_packages
from intraq_cli.errors import IntraqError, RecipeError, UsageError
from intraq_cli.events import Noted, Report, StageDone, Warned, silent
from intraq_cli.io.digests import file_digest
from intraq_cli.jobs.bit_budget import BitChoice, Chosen, asked_bits, chosen_bits
from intraq_cli.jobs.checkpoint_folder import Finished, write_folder
from intraq_cli.jobs.evidence import recorded
from intraq_cli.jobs.forecast import foretell
from intraq_cli.jobs.given_images import digest_of_images, given_images
from intraq_cli.jobs.inspection import inspected
from intraq_cli.jobs.manifest import call, manifest, origin_of
from intraq_cli.jobs.outlook import announcing
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.recipes import chosen_recipe
from intraq_cli.jobs.sensitivities import check_origin, read_sensitivity
from intraq_cli.jobs.teachers import check_free, examined, learnable
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.quantization.bit_rules import read_bit_rules
from intraq_cli.quantization.budget import chosen_budget
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES
from intraq_cli.quantization.inspection import mean_bits
from intraq_cli.quantization.plan import check_width, form_of
from intraq_cli.recipe import Placement, choose_placement
from intraq_cli.results import ExportResult, InspectionResult, QuantizationResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.distributed import launched_processes
from intraq_cli.runtime.metrics import to_tensorboard
from intraq_cli.words import some_of


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
    batch_size: int | None = None,
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
        model: the teacher, as the README spells it, or the ``nn.Module`` itself.
        w: bits of the weights, 2 to 8; default 4. Under a budget those to choose from for each layer; default all.
        a: bits of the activations, 2 to 8; default 4, under a budget of the weights 8. Under one of bit operations
            those to choose from; default all.
        target_size: a budget: the size of ``model.safetensors``, in bytes or as ``2MB``.
        avg_bits: a budget: mean bits of a quantized weight.
        bops: a budget: bit operations for one image, as a number or as ``5G``.
        sensitivity: what ``sensitivity`` wrote, so that under a budget nothing is measured.
        out: the folder; default ``NAME-wWaA``, or with the budget in its name.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides, ``section.key=value`` each, or a dict: ``{"section.key": value}``.
        images: in place of stage 1 a file that ``synthesize`` wrote, a folder of pictures without labels, or one of
            each; of the pictures those nearest to the stored batch-norm statistics, as many as the recipe makes images.
        act_placement: ``inputs`` (of every layer), ``activations`` (outputs of ReLU-like functions, the paper's), or
            ``integer`` (all that an integer runtime needs); default: the recipe's, else ``inputs``.
        first_last_bits: bits of the first and the last layer's weights and, but for placement ``activations``, of the
            last layer's input; the image has 8.
        bits: a TOML file with other bits for layers by their names, see :mod:`intraq_cli.quantization.bit_rules`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        force: replace an existing folder.
        resume: go on from what an interrupted run of the same job has kept.
        batch_size: micro-batch size: gradients are accumulated, results equal the full batch's; default: what fits.
        deterministic: the same bits at every run on a GPU too, which takes longer; a CPU always gives them.
        dry_run: check everything, try how long it will take, write nothing.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, where the model does not say it.
        interpolation: ``bicubic``, ``bilinear``, ..., where the model does not say it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        export: write ``model.onnx`` into the folder as well, with its proof; see :func:`intraq_cli.export`.
        tensorboard: a folder to write the losses of both stages into, for TensorBoard.
        suffix: put behind the folder's name, whoever gives that.
        command: what to record as the command; default: how this was called.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    command = command or call(quantize, locals())
    started = time.perf_counter()
    report = to_tensorboard(report, tensorboard)
    check_width("--first-last-bits", first_last_bits)
    budget = chosen_budget(target_size, avg_bits, bops)
    if sensitivity is not None and budget is None:
        raise UsageError("--sensitivity is for choosing bits", "give --target-size, --avg-bits or --bops")
    known = read_sensitivity(Path(sensitivity)) if sensitivity is not None else None
    if known is not None and budget is not None:  # to choose from what was measured, where nothing else is said
        w = tuple(known.widths) if w is None else w
        a = tuple(known.widths) if a is None and budget.kind == "bit operations" else a
    asked = asked_bits(w, a, budget)
    rules = read_bit_rules(bits)
    settings = chosen_recipe(recipe, set)
    placement = choose_placement(act_placement, settings)
    if not images and not settings.synthesis.num_images and settings.tuning.steps:
        raise RecipeError(
            f"recipe {settings.name} makes no images (synthesis.num_images = 0), and has tuning.steps",
            "set tuning.steps=0, or choose another recipe",
        )
    if not images and not settings.synthesis.num_images and settings.quantization.activation_range == "ema":
        raise RecipeError(
            f"recipe {settings.name} makes no images (synthesis.num_images = 0), and activation_range = ema needs some",
            "set quantization.activation_range=mse, or choose another recipe",
        )
    if settings.tuning.steps and launched_processes().size > settings.tuning.batch_size:
        raise UsageError(
            f"{launched_processes().size} processes share a batch of {settings.tuning.batch_size} images in tuning",
            "start fewer, or set tuning.batch_size",
        )
    where = choose_device(device, deterministic)
    if export is not None:
        check_packages()
    check_free(out and f"{out}{suffix}", force, is_own_checkpoint)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = learnable(source)
    path = Path(f"{out or f'{teacher.name}-{asked.label}'}{suffix}")
    check_free(path, force, is_own_checkpoint)
    anatomy = examined(teacher, where, report)
    if known is not None:
        check_origin(known, teacher, anatomy, placement)
    graph = form_of(anatomy.graph, placement)
    choice = BitChoice(graph, placement, asked, first_last_bits, rules)
    choice.check(known)
    check_storable(graph)
    wanted = max(settings.synthesis.num_images, CALIBRATION_IMAGES)
    made = given_images(images, source, teacher, anatomy, wanted, seed, report)
    stages: dict[str, float] = {}
    context = RunContext(
        seed, where, timing(announcing(report, settings), stages), batch_size, deterministic=deterministic
    )
    job = Job(teacher, anatomy, settings, context)
    found = inspected(source.spelled, teacher, anatomy, graph, asked.w[0], asked.a[0], choice.narrowest)
    _say_what_stays_float(found, report)
    result = QuantizationResult(
        path=str(path),
        model=source.spelled,
        w_bits=found.w_bits,
        a_bits=found.a_bits,
        recipe=settings.name,
        bytes_float=found.bytes_float,
        bytes_quantized=found.bytes_quantized,
        agreement=math.nan,
        kl=math.nan,
        heterogeneity=math.nan,
        seconds=0.0,
        stages=stages,
        seed=seed,
        device=str(where),
        act_placement=placement,
        held_out=0,
        avg_bits=mean_bits(found.layers),
        dry_run=dry_run,
    )

    def with_bits(chosen: Chosen) -> tuple[QuantizationResult, InspectionResult]:
        now = inspected(source.spelled, teacher, anatomy, graph, chosen.w, chosen.a, chosen.plan)
        bits = {key: getattr(now, key) for key in ("w_bits", "a_bits", "bytes_quantized")}
        return replace(result, **bits, avg_bits=mean_bits(now.layers), frontier=chosen.frontier), now

    if dry_run:
        foretold = foretell(job, choice.narrowest, made, time.perf_counter() - started)
        if asked.budget is not None:
            result, _ = with_bits(chosen_bits(job, choice, made, known))
        return replace(result, foretold=foretold)
    measured_before = None if sensitivity is None else file_digest(Path(sensitivity))
    identity = {
        "job": "quantize",
        **origin_of(teacher, anatomy, settings, seed),
        "recipe": settings.to_dict(),
        "input": asdict(teacher.spec),
        "bits": [asked.w, asked.a, first_last_bits, asdict(rules), budget and asdict(budget), measured_before],
        "placement": placement,
        "images": digest_of_images(made),
    }
    with job.started(path, identity, resume) as job:
        job, metrics = recorded(job)
        started -= job.context.kept.before
        if not images and settings.synthesis.num_images:
            made = job.synthesize()
        chosen = chosen_bits(job, choice, made, known)
        result, found = with_bits(chosen)
        quantized = job.quantize(chosen.plan, made)
        follows = quantized.fidelity
        result = replace(
            result,
            agreement=follows.agreement,
            kl=follows.kl,
            sqnr=follows.sqnr,
            heterogeneity=made.heterogeneity if made else math.nan,
            held_out=follows.n,
            losses={made.kind: made.losses, "tuning": quantized.losses} if made else {},
            pictures=made.pictures if made else 0,
            logits_error=quantized.logits_error,
            tuning_undone=quantized.tuning_undone,
            random_images=quantized.random_images,
        )
        if job.context.ranks.rank == 0:
            run = manifest(job, result, made, command, images)
            run |= {"inspection": asdict(found), "sensitivity": [asdict(one) for one in chosen.sensitivities]}
            end = Finished(job, source, chosen, quantized, made, run, started, metrics)
            result = replace(result, bytes_quantized=write_folder(path, force, end))
    if export is not None and job.context.ranks.rank == 0:
        result = replace(result, export=_exported(path, export, model, report))
    return replace(result, seconds=time.perf_counter() - started)


def _exported(path: Path, to: Literal["onnx"], model: Model, report: Report) -> ExportResult:
    """The checkpoint that was just written, exported.

    Raises:
        IntraqError: it cannot be; the checkpoint is there all the same.
    """
    code = model if isinstance(model, nn.Module) or needs_code(str(model)) else None
    try:
        return exporting.export(str(path), to=to, model=code, report=report)
    except IntraqError:
        report(Warned(f"the checkpoint {path} is complete; only its export failed"))
        raise


def _say_what_stays_float(found: InspectionResult, report: Report) -> None:
    kept = [row for row in found.layers if row.float_reason]
    if kept and launched_processes().rank == 0:
        some = some_of([f"{row.name} ({row.float_reason})" for row in kept])
        share = 100 * sum(row.multiply_adds for row in kept) / found.multiply_adds
        report(Noted(f"{share:.1f} % of the multiply-adds stay float, see `intraq inspect`: {some}"))


def timing(report: Report, stages: dict[str, float]) -> Report:
    """A report that also notes the seconds of each stage in ``stages``."""

    def watched(event: Any) -> None:
        if isinstance(event, StageDone):
            stages[event.stage] = event.seconds
        report(event)

    return watched
