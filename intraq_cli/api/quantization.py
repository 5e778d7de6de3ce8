"""``quantize``: from a pretrained classifier to a checkpoint folder, without data."""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from intraq_cli.api import exporting
from intraq_cli.api.arguments import Model, Numbers, Size, Text, Texts, verb
from intraq_cli.api.inspection import inspected
from intraq_cli.api.manifest import call, digest, manifest, origin_of
from intraq_cli.api.pipeline import Job, random_pixels
from intraq_cli.api.teachers import check_free, examined, learnable
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.checkpoint.write import check_storable, checkpoint_config, checkpoint_tensors, write_json, write_weights
from intraq_cli.deploy.libraries import check_packages
from intraq_cli.errors import IntraqError, ModelError, RecipeError, UsageError
from intraq_cli.events import Noted, Report, StageDone, Warned, silent, some_of
from intraq_cli.graph.proof import SAME, same_answers
from intraq_cli.io.atomic import atomic_folder
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import InputSpec
from intraq_cli.publish.card import model_card
from intraq_cli.quantization.bit_rules import read_bit_rules
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import check_bits, form_of, plan_quantization
from intraq_cli.recipe import Placement, choose_placement
from intraq_cli.results import InspectionResult, QuantizationResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.distributed import launched_processes
from intraq_cli.synthesis.image_set import contact_sheet, load_images
from intraq_cli.synthesis.synthesizer import Synthetic
from intraq_cli.zoo import load_recipe


@verb
def quantize(
    model: Model,
    *,
    w: int = 4,
    a: int = 4,
    out: str | Path | None = None,
    recipe: Text = "default",
    set: Texts = (),  # noqa: A002 - the option's own name
    images: str | Path | None = None,
    act_placement: Placement | None = None,
    first_last_bits: int | None = None,
    bits: str | Path | None = None,
    device: Text = "auto",
    seed: int = 0,
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
    command: str | None = None,
    report: Report = silent,
) -> QuantizationResult:
    """Quantize a pretrained classifier without data, and write a checkpoint folder.

    Args:
        model: the teacher, as the README spells it, or the ``nn.Module`` itself.
        w: bits of the weights, 2 to 8.
        a: bits of the activations, 2 to 8.
        out: the folder; default ``NAME-wWaA``.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides, ``section.key=value`` each.
        images: what ``synthesize`` wrote, to leave out stage 1.
        act_placement: ``inputs`` (of every layer), ``activations`` (after every ReLU, the paper's), or ``integer`` (all
            that an integer runtime needs); default: the recipe's, which is ``inputs`` where it names none.
        first_last_bits: other bits for the first and the last layer.
        bits: a TOML file with other bits for layers by their names, see :mod:`intraq_cli.quantization.bit_rules`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        force: replace an existing folder.
        resume: go on from what an interrupted run of the same job has kept.
        batch_size: micro-batch size: gradients are accumulated, results equal the full batch's; default: what fits.
        deterministic: the same bits at every run on a GPU too, which takes longer; a CPU always gives them.
        dry_run: check everything, do nothing.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, where the model does not say it.
        interpolation: ``bicubic``, ``bilinear``, ..., where the model does not say it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        export: write ``model.onnx`` into the folder as well, with its proof; see :func:`intraq_cli.export`.
        command: what to record as the command; default: how this was called.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    command = command or call(quantize, locals())
    started = time.perf_counter()
    check_bits(w, a, first_last_bits)
    rules = read_bit_rules(bits)
    settings = load_recipe(recipe).override(list(set))
    placement = choose_placement(act_placement, settings)
    if images is None and not settings.synthesis.num_images and settings.tuning.steps:
        raise RecipeError(
            f"recipe {settings.name} makes no images (synthesis.num_images = 0), and has tuning.steps",
            "set tuning.steps=0, or choose another recipe",
        )
    if settings.tuning.steps and launched_processes().size > settings.tuning.batch_size:
        raise UsageError(
            f"{launched_processes().size} processes share a batch of {settings.tuning.batch_size} images in tuning",
            "start fewer, or set tuning.batch_size",
        )
    where = choose_device(device, deterministic)
    if export is not None:
        check_packages()
    check_free(out, force)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = learnable(source)
    path = Path(out or f"{teacher.name}-w{w}a{a}")
    check_free(path, force)
    anatomy = examined(teacher, where, report)
    graph = form_of(anatomy.graph, placement)
    plan = plan_quantization(graph, w, a, placement, first_last_bits, rules)
    check_storable(graph)
    found = inspected(source.spelled, teacher, anatomy, graph, w, a, plan)
    made: Synthetic | None = None
    stages: dict[str, float] = {}
    watched = timing(report, stages)
    if images is not None:
        made, origin = load_images(Path(images), teacher.spec, anatomy.num_classes)
        if origin.get("sha256") != teacher.sha256:
            report(Warned(f"{images} was made from other weights ({origin.get('model')}) than {source.spelled}"))
    result = QuantizationResult(
        path=str(path),
        model=source.spelled,
        w_bits=w,
        a_bits=a,
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
        dry_run=dry_run,
    )
    _say_what_stays_float(found, report)
    if dry_run:
        return result
    identity = {
        "job": "quantize",
        **origin_of(teacher, settings, seed),
        "recipe": settings.to_dict(),
        "input": asdict(teacher.spec),
        "bits": [w, a, first_last_bits, asdict(rules)],
        "placement": placement,
        "images": digest(Path(images)) if images is not None else None,
    }
    job = Job(teacher, anatomy, settings, RunContext(seed, where, watched, batch_size, deterministic=deterministic))
    with job.started(path, identity, resume) as job:
        if images is None and settings.synthesis.num_images:
            made = job.synthesize()
        quantized = job.quantize(plan, made)
        follows = quantized.fidelity
        result = replace(
            result,
            agreement=follows.agreement,
            kl=follows.kl,
            sqnr=follows.sqnr,
            heterogeneity=made.heterogeneity if made else math.nan,
            held_out=follows.n,
            losses={"synthesis": made.losses, "tuning": quantized.losses} if made else {},
        )
        if job.context.ranks.rank == 0:
            run = manifest(job, result, made, command, images)
            run["inspection"] = asdict(found)
            config = checkpoint_config(teacher, anatomy.num_classes, plan, w, a)
            tensors = checkpoint_tensors(quantized.student, quantized.stored)
            with atomic_folder(path, force) as folder:
                run["measured"]["bytes_quantized"] = write_weights(folder, tensors)
                run["seconds"] = time.perf_counter() - started
                write_json(folder / "config.json", config)
                write_json(folder / "run.json", run)
                (folder / "README.md").write_text(model_card(config, run), encoding="utf-8")
                if made:
                    contact_sheet(made.images, teacher.spec).save(folder / "samples.png")
                _load_once(folder, source, quantized.student, teacher.spec, where)
            result = replace(result, bytes_quantized=run["measured"]["bytes_quantized"])
            if export is not None:
                code = model if isinstance(model, nn.Module) or needs_code(str(model)) else None
                result = replace(result, export=exporting.export(str(path), to=export, model=code, report=report))
    return replace(result, seconds=time.perf_counter() - started)


def _load_once(folder: Path, source: Source, student: QuantizedNetwork, spec: InputSpec, device: torch.device) -> None:
    """See that what was written gives the network back, before anybody relies on it.

    Raises:
        ModelError: it cannot be loaded, or gives other logits.
    """
    what = f"{source.spelled} cannot be had back from its checkpoint"
    try:
        loaded = read_checkpoint(folder, source if source.needs_code else None, device).network
    except IntraqError as error:
        raise ModelError(f"{what}: {error.message}", "nothing was kept; please report this network") from error
    images = random_pixels(spec)[:2].to(device)
    tolerance = 0.0 if device.type == "cpu" else SAME  # sums on a GPU come in any order
    if not same_answers(student, loaded, images, tolerance):
        raise ModelError(f"{what}: its logits are others", "nothing was kept; please report this network")


def _say_what_stays_float(found: InspectionResult, report: Report) -> None:
    kept = [row for row in found.layers if row.float_reason]
    if kept and launched_processes().rank == 0:
        some = some_of([f"{row.name or 'network'} ({row.float_reason})" for row in kept])
        share = 100 * sum(row.multiply_adds for row in kept) / found.multiply_adds
        report(Noted(f"{share:.1f} % of the multiply-adds stay float, see `intraq inspect`: {some}"))


def timing(report: Report, stages: dict[str, float]) -> Report:
    """A report that also notes the seconds of each stage in ``stages``."""

    def watched(event: Any) -> None:
        if isinstance(event, StageDone):
            stages[event.stage] = event.seconds
        report(event)

    return watched
