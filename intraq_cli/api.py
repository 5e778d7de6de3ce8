"""The verbs as functions: the commands of the same names call these and print what they return."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intraq_cli import __version__
from intraq_cli.card import model_card
from intraq_cli.checkpoint import (
    Checkpoint,
    checkpoint_config,
    checkpoint_tensors,
    is_checkpoint,
    read_checkpoint,
    write_json,
    write_weights,
)
from intraq_cli.conditions import Conditions
from intraq_cli.device import choose_device, describe_device, place
from intraq_cli.errors import CheckpointError, ModelError, RecipeError, UsageError
from intraq_cli.evaluation.accuracy import compare
from intraq_cli.evaluation.data import open_data
from intraq_cli.events import Report, StageDone, StageStarted, Warned, silent
from intraq_cli.hub import check_repository_name, check_revision, repository_url, upload
from intraq_cli.images import contact_sheet, load_images, save_images
from intraq_cli.inspection import expected_bytes, float_bytes, inspect_layers
from intraq_cli.job import EVALUATION_BATCH, Job, out_of_memory
from intraq_cli.output import check_output, whole_file, whole_folder
from intraq_cli.parallel import launched
from intraq_cli.publishing import FILES, RESULTS, check_record, checkpoint_files, left_out, record, timm_files
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.recipe import Placement, Recipe
from intraq_cli.results import (
    EvaluationResult,
    InspectionResult,
    PushedFile,
    PushResult,
    QuantizationResult,
    SynthesisResult,
)
from intraq_cli.sources import InputOverride, is_downloaded, is_factory, is_local, load_teacher, sketch_teacher
from intraq_cli.synthesis.synthesizer import Synthetic
from intraq_cli.teacher import Anatomy, Teacher, check_batch_norms, examine
from intraq_cli.zoo import load_recipe


def synthesize(
    model: str,
    *,
    n: int | None = None,
    out: str | Path | None = None,
    recipe: str = "default",
    set: Sequence[str] = (),  # noqa: A002 - the option's own name
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    resume: bool = True,
    batch_size: int | None = None,
    dry_run: bool = False,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weights: str | Path | None = None,
    report: Report = silent,
) -> SynthesisResult:
    """Learn synthetic images from a network alone, and write them to a safetensors file.

    Args:
        model: the teacher; see the README for the spellings.
        n: number of images; default: the recipe's.
        out: the file; default ``NAME-images.safetensors``.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides, ``section.key=value`` each.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        force: replace an existing file.
        resume: go on from what an interrupted run of the same job has kept.
        batch_size: images that go through the networks at once, to the same end; default: as many as fit.
        dry_run: check everything, do nothing.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    settings = load_recipe(recipe).override([*set, *([f"synthesis.num_images={n}"] if n is not None else [])])
    if not settings.synthesis.num_images:
        raise UsageError(f"recipe {settings.name} makes no images", "give their number with -n, or another recipe")
    where = choose_device(device)
    _check_output(out, force, file=True)
    teacher = _learnable(model, InputOverride(input_size, mean, std), weights)
    path = Path(out or f"{teacher.name}-images.safetensors")
    _check_output(path, force, file=True)
    anatomy = _look(teacher, where)
    result = SynthesisResult(
        path=str(path),
        model=model,
        n=settings.synthesis.num_images,
        image_shape=teacher.spec.input_size,
        seconds=0.0,
        losses={},
        teacher_accuracy=math.nan,
        heterogeneity=math.nan,
        seed=seed,
        device=str(where),
        dry_run=dry_run,
    )
    if dry_run:
        return result
    origin = _origin(teacher, settings, seed)
    job = Job(teacher, anatomy, settings, Conditions(seed, where, report, batch_size))
    with job.under_way(path, {"job": "synthesize", **origin, "input": asdict(teacher.spec)}, resume) as job:
        made = job.synthesize()
        if job.conditions.ranks.rank == 0:
            with whole_file(path, force) as scratch:
                save_images(scratch, made, origin)
    return replace(
        result,
        seconds=time.perf_counter() - started,
        losses=made.losses,
        teacher_accuracy=100 * made.teacher_accuracy,
        heterogeneity=made.heterogeneity,
    )


def quantize(
    model: str,
    *,
    w: int = 4,
    a: int = 4,
    out: str | Path | None = None,
    recipe: str = "default",
    set: Sequence[str] = (),  # noqa: A002 - the option's own name
    images: str | Path | None = None,
    act_placement: Placement = "inputs",
    first_last_bits: int | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    resume: bool = True,
    batch_size: int | None = None,
    dry_run: bool = False,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weights: str | Path | None = None,
    command: str | None = None,
    report: Report = silent,
) -> QuantizationResult:
    """Quantize a pretrained classifier without data, and write a checkpoint folder.

    Args:
        model: the teacher; see the README for the spellings.
        w: bits of the weights, 2 to 8.
        a: bits of the activations, 2 to 8.
        out: the folder; default ``NAME-wWaA``.
        recipe: a name from the zoo, or the path of a TOML file.
        set: overrides, ``section.key=value`` each.
        images: what ``synthesize`` wrote, to leave out stage 1.
        act_placement: ``inputs`` (of every layer) or ``activations`` (after every ReLU, the paper's).
        first_last_bits: other bits for the first and the last layer.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        force: replace an existing folder.
        resume: go on from what an interrupted run of the same job has kept.
        batch_size: images that go through the networks at once, to the same end; default: as many as fit.
        dry_run: check everything, do nothing.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        command: what to record as the command; default: how this was called.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    command = command or _call(quantize, locals())
    started = time.perf_counter()
    _check_bits(w, a, first_last_bits)
    _check_placement(act_placement)
    settings = load_recipe(recipe).override(list(set))
    if images is None and not settings.synthesis.num_images and settings.tuning.steps:
        raise RecipeError(
            f"recipe {settings.name} makes no images (synthesis.num_images = 0), and has tuning.steps",
            "set tuning.steps=0, or choose another recipe",
        )
    if settings.tuning.steps and launched().size > settings.tuning.batch_size:
        raise UsageError(
            f"{launched().size} processes share a batch of {settings.tuning.batch_size} images in tuning",
            "start fewer, or set tuning.batch_size",
        )
    where = choose_device(device)
    _check_output(out, force)
    teacher = _learnable(model, InputOverride(input_size, mean, std), weights)
    path = Path(out or f"{teacher.name}-w{w}a{a}")
    _check_output(path, force)
    anatomy = _look(teacher, where)
    plan = plan_quantization(anatomy.trace, w, a, act_placement, first_last_bits)
    made: Synthetic | None = None
    stages: dict[str, float] = {}
    watched = _timing(report, stages)
    if images is not None:
        made, origin = load_images(Path(images), teacher.spec, anatomy.num_classes)
        if origin.get("sha256") != teacher.sha256:
            report(Warned(f"{images} was made from other weights ({origin.get('model')}) than {model}"))
    bytes_float = float_bytes(teacher.network.state_dict().values())
    result = QuantizationResult(
        path=str(path),
        model=model,
        w_bits=w,
        a_bits=a,
        recipe=settings.name,
        bytes_float=bytes_float,
        bytes_quantized=expected_bytes(teacher.network, anatomy.trace, plan),
        agreement=math.nan,
        kl=math.nan,
        heterogeneity=math.nan,
        seconds=0.0,
        stages=stages,
        seed=seed,
        device=str(where),
        act_placement=act_placement,
        held_out=0,
        dry_run=dry_run,
    )
    if dry_run:
        return result
    identity = {
        "job": "quantize",
        **_origin(teacher, settings, seed),
        "recipe": settings.to_dict(),
        "input": asdict(teacher.spec),
        "bits": [w, a, first_last_bits],
        "placement": act_placement,
        "images": _digest(Path(images)) if images is not None else None,
    }
    job = Job(teacher, anatomy, settings, Conditions(seed, where, watched, batch_size))
    with job.under_way(path, identity, resume) as job:
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
        if job.conditions.ranks.rank == 0:
            run = _manifest(job, result, made, command, images)
            config = checkpoint_config(teacher, anatomy.num_classes, plan, w, a)
            tensors = checkpoint_tensors(quantized.student, quantized.stored)
            with whole_folder(path, force) as folder:
                run["measured"]["bytes_quantized"] = write_weights(folder, tensors)
                run["seconds"] = time.perf_counter() - started
                write_json(folder / "config.json", config)
                write_json(folder / "run.json", run)
                (folder / "README.md").write_text(model_card(config, run), encoding="utf-8")
                if made:
                    contact_sheet(made.images, teacher.spec).save(folder / "samples.png")
            result = replace(result, bytes_quantized=run["measured"]["bytes_quantized"])
    return replace(result, seconds=time.perf_counter() - started)


def inspect(
    model: str,
    *,
    w: int = 4,
    a: int = 4,
    act_placement: Placement = "inputs",
    first_last_bits: int | None = None,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> InspectionResult:
    """Say what of a model would be quantized, what stays float and why; its weights are not downloaded.

    Args:
        model: the teacher; see the README for the spellings.
        w: bits of the weights, 2 to 8.
        a: bits of the activations, 2 to 8.
        act_placement: ``inputs`` (of every layer) or ``activations`` (after every ReLU, the paper's).
        first_last_bits: other bits for the first and the last layer.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.

    Raises:
        IntraqError: anything that the caller can mend, a model that cannot be quantized among it.
    """
    _check_bits(w, a, first_last_bits)
    _check_placement(act_placement)
    teacher = sketch_teacher(model, InputOverride(input_size, mean, std))
    anatomy = examine(teacher)
    trace = anatomy.trace
    plan = plan_quantization(trace, w, a, act_placement, first_last_bits)
    layers = inspect_layers(trace, plan)
    total = sum(layer.multiply_adds for layer in layers)
    low = sum(layer.multiply_adds for layer in layers if layer.w_bits and layer.a_bits)
    return InspectionResult(
        model=model,
        architecture=teacher.architecture,
        weights="not read" if next(teacher.network.parameters()).is_meta else "read",
        input_size=teacher.spec.input_size,
        num_classes=anatomy.num_classes,
        w_bits=w,
        a_bits=a,
        act_placement=act_placement,
        batch_norms=len(trace.batch_norms),
        activations=len(trace.activations),
        layers=layers,
        parameters=sum(p.numel() for p in teacher.network.parameters()),
        parameters_quantized=sum(layer.parameters for layer in layers if layer.w_bits),
        multiply_adds=total,
        low_bit_share=100 * low / total,
        bytes_float=float_bytes(teacher.network.state_dict().values()),
        bytes_quantized=expected_bytes(teacher.network, trace, plan),
    )


def evaluate(
    target: str,
    data: str,
    *,
    model: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = EVALUATION_BATCH,
    device: str = "auto",
    seed: int = 0,
    revision: str | None = None,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weights: str | Path | None = None,
    save: bool = False,
    report: Report = silent,
) -> EvaluationResult:
    """Measure a checkpoint, or a float model, and the float teacher on the same images.

    Args:
        target: a checkpoint folder, the Hub id of one, or a float model.
        data: a folder of class folders, ``cifar10``, ``cifar100``, ``digits`` or ``hfds:ORG/NAME``.
        model: the teacher again, for a checkpoint whose teacher cannot be found by itself (``file.py:factory``).
        data_dir: where ``cifar10`` and ``cifar100`` lie.
        split: of a data set on the Hub.
        limit: measure on a seeded random sample of so many images.
        batch_size: images at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of the sample.
        revision: of a checkpoint on the Hub.
        input_size: (C, H, W), where a float model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        weights: of the teacher: a safetensors or ``.pth`` file, in place of timm's weights.
        save: note the figures in the checkpoint folder that ``target`` is, and in its card.
        report: told of every batch.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    folder = Path(target)
    if save:
        if not is_checkpoint(folder):
            raise UsageError(f"--save: {target} is no checkpoint folder", "figures are noted in the folder measured")
        check_record(folder)
    where = choose_device(device)
    override = InputOverride(input_size, mean, std)
    checkpoint = _find_checkpoint(target, model, where, revision)
    if checkpoint is None:
        teacher = load_teacher(f"{target}@{revision}" if revision else target, override, weights)
        labels, num_classes = teacher.label_names, _look(teacher, where, strict=False).num_classes
        network: nn.Module = teacher.network
    elif override != InputOverride():
        raise UsageError("a checkpoint knows its own input", "leave out --input-size, --mean and --std")
    else:
        teacher = _teacher_of(checkpoint, model, weights, report, from_hub=not Path(target).is_dir())
        labels, num_classes = checkpoint.label_names, checkpoint.num_classes
        theirs = _look(teacher, where, strict=False).num_classes
        if theirs != num_classes:
            raise ModelError(
                f"{teacher.source} has {theirs} classes, the checkpoint {num_classes}",
                "name the float model that it was made from: --model",
            )
        network = checkpoint.network
    spec = teacher.spec if checkpoint is None else checkpoint.spec
    images = open_data(data, spec, num_classes, labels, data_dir, split).sample(limit, seed)
    report(StageStarted("evaluation", -(-images.count // batch_size), f"{images.count} images"))
    with out_of_memory():
        accuracy = compare(network, teacher.network, images.batches(batch_size, report), where, report)
    seconds = time.perf_counter() - started
    report(StageDone("evaluation", seconds))
    result = EvaluationResult(target, images.name, **asdict(accuracy), seconds=seconds, device=str(where))
    if checkpoint is None or not save:
        return result
    drawn = {"limit": limit, "seed": None if limit is None else seed}
    figures = {key: value for key, value in asdict(result).items() if key not in ("target", "saved")}
    part = (split or "test") if data.startswith("hfds:") else None
    record(folder, checkpoint, {**figures, "split": part, **drawn}, report)
    return replace(result, saved=str(folder / "run.json"))


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    token: str | None = None,
    timm: bool = False,
    dry_run: bool = False,
    report: Report = silent,
) -> PushResult:
    """Upload a checkpoint folder with its model card to the Hugging Face Hub, in one commit.

    Args:
        folder: what ``quantize`` wrote.
        repo_id: ``ORG/NAME``; made if it is not there.
        private: of a repository that is made.
        revision: the branch; default ``main``.
        create_pr: open a pull request instead.
        message: of the commit.
        token: with write access; default: HF_TOKEN, or that of ``hf auth login``.
        timm: send a plain timm repository instead: dequantized weights, float activations.
        dry_run: check everything, send nothing.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    check_repository_name(repo_id)
    check_revision(revision)
    if message is not None and not message.strip():
        raise UsageError("the message of a commit cannot be empty", "leave --message out for a usual one")
    folder = Path(folder)
    files = timm_files(folder, repo_id) if timm else checkpoint_files(folder, repo_id, None if create_pr else revision)
    result = PushResult(
        repo_id=repo_id,
        url=repository_url(repo_id),
        commit=None,
        files=tuple(PushedFile(path, len(content)) for path, content in files.items()),
        card=files["README.md"].decode(),
        left_out=tuple(left_out(folder)),
        dry_run=dry_run,
    )
    if dry_run:
        return result
    sent = upload(
        repo_id,
        files,
        obsolete=frozenset((*FILES, RESULTS)) - frozenset(files),
        private=private,
        revision=revision,
        create_pr=create_pr,
        message=message or f"Upload {folder.resolve().name} with intraq {__version__}",
        token=token,
        report=report,
    )
    return replace(result, commit=sent.commit, pull_request=sent.pull_request)


def load(
    target: str | Path, *, model: str | None = None, device: str = "auto", revision: str | None = None
) -> QuantizedNetwork:
    """The network of a checkpoint folder, or of one on the Hub: the very logits that it had when ``quantize`` ended.

    Args:
        target: a folder, or ``ORG/NAME``.
        model: the ``file.py:factory`` again, for a checkpoint that was made from one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        revision: of a repository on the Hub.

    Raises:
        IntraqError: no such checkpoint, or a damaged one.
    """
    checkpoint = _find_checkpoint(str(target), model, choose_device(device), revision)
    if checkpoint is None:
        raise CheckpointError(
            f"{target} is no intraq checkpoint", "a checkpoint folder is what `intraq quantize` writes"
        )
    return checkpoint.network


def _check_bits(w: int, a: int, first_last_bits: int | None) -> None:
    for name, bits in (("--w", w), ("--a", a), ("--first-last-bits", first_last_bits)):
        if bits is not None and not 2 <= bits <= 8:
            raise UsageError(f"{name} {bits}: bits must be 2 to 8")


def _check_placement(placement: str) -> None:
    if placement not in ("inputs", "activations"):
        raise UsageError(f"no activation placement {placement!r}", "inputs or activations")


def _check_output(path: str | Path | None, force: bool, file: bool = False) -> None:
    if path is not None and launched().rank == 0:
        check_output(Path(path), force, file)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _learnable(model: str, override: InputOverride, weights: str | Path | None) -> Teacher:
    """The teacher; one without batch norm is refused before its weights are downloaded."""
    if is_downloaded(model) and not weights:
        check_batch_norms(sketch_teacher(model, override))
    return load_teacher(model, override, weights)


def _look(teacher: Teacher, device: torch.device, strict: bool = True) -> Anatomy:
    anatomy = examine(teacher, strict)
    place(teacher.network, device)
    return anatomy


def _manifest(
    job: Job, result: QuantizationResult, made: Synthetic | None, command: str, images: str | Path | None
) -> dict[str, Any]:
    """What ``run.json`` holds, but for the size and the time."""
    teacher, settings = job.teacher, job.recipe
    measured: dict[str, Any] = {"bytes_float": result.bytes_float}
    if made:
        measured |= {key: getattr(result, key) for key in ("agreement", "kl", "sqnr", "held_out", "heterogeneity")}
        measured["teacher_accuracy_synthetic"] = 100 * made.teacher_accuracy
    return {
        "name": teacher.name,
        "command": command,
        "recipe": {"name": settings.name, **settings.to_dict()},
        "images": str(images) if images is not None else None,
        "seed": job.conditions.seed,
        "teacher": {
            "source": teacher.source,
            "weights": teacher.weights,
            "revision": teacher.revision,
            "sha256": teacher.sha256,
        },
        "needs_factory": is_factory(teacher.architecture),
        "device": describe_device(job.conditions.device),
        "processes": job.conditions.ranks.size,
        "versions": _versions(),
        "losses": result.losses,
        "measured": measured,
        "stages": result.stages,
    }


def _call(verb: Callable[..., Any], given: dict[str, Any]) -> str:
    """A call as one would write it: the model, and what is not left to its default."""
    words = [repr(given["model"])]
    for name, parameter in signature(verb).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in ("command", "report"):
            continue
        value = str(given[name]) if isinstance(given[name], Path) else given[name]
        if value != parameter.default:
            words.append(f"{name}={value!r}")
    return f"{verb.__name__}({', '.join(words)})"


def _origin(teacher: Teacher, recipe: Recipe, seed: int) -> dict[str, Any]:
    return {
        "model": teacher.source,
        "revision": teacher.revision,
        "sha256": teacher.sha256,
        "recipe": recipe.to_dict()["synthesis"],
        "seed": seed,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import timm
    import torchvision

    return {
        "intraq": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def _find_checkpoint(target: str, model: str | None, device: torch.device, revision: str | None) -> Checkpoint | None:
    """The checkpoint that ``target`` names, in a folder or on the Hub; None if it names no checkpoint."""
    from intraq_cli.sources import fetch_checkpoint

    folder = Path(target)
    if folder.is_dir():
        if revision:
            raise UsageError(f"--revision {revision}: {target} is a folder", "leave it out")
        return read_checkpoint(folder, model, device) if is_checkpoint(folder) else None
    fetched = fetch_checkpoint(target, revision)
    return read_checkpoint(fetched, model, device) if fetched else None


def _teacher_of(
    checkpoint: Checkpoint, model: str | None, weights: str | Path | None, report: Report, from_hub: bool
) -> Teacher:
    """The float network that a checkpoint was made from; never runs code that the user did not name.

    A checkpoint from the Hub names no files here: what was a path there means something else here, if anything.
    """
    noted = checkpoint.run.get("teacher") or {}
    source = model or noted.get("source")
    if not isinstance(source, str):
        raise CheckpointError("the checkpoint does not say what it was made from", "name its teacher with --model")
    if model is None and is_factory(source):
        raise ModelError(f"the checkpoint was made from {source}", "name it again: --model file.py:factory")
    noted_file = noted.get("weights") if model is None and weights is None else None
    if from_hub and model is None and (noted_file or is_local(source)):
        raise ModelError(
            f"the checkpoint was made from files that are not here: {noted_file or source}",
            "name the float model that it was made from: --model, and --weights if it was made from a file",
        )
    spec = checkpoint.spec
    try:
        teacher = load_teacher(source, InputOverride(spec.input_size, spec.mean, spec.std), weights or noted_file)
    except ModelError as error:
        hint = "name the float model that it was made from: --model, and --weights if it was made from a file"
        raise ModelError(f"the float teacher cannot be had: {error.message}", hint) from error
    if noted.get("sha256") not in (None, teacher.sha256):
        report(Warned(f"the float weights of {source} are not those that the checkpoint was made from"))
    return teacher


def _timing(report: Report, stages: dict[str, float]) -> Report:
    def watched(event: Any) -> None:
        if isinstance(event, StageDone):
            stages[event.stage] = event.seconds
        report(event)

    return watched


__all__ = [
    "EvaluationResult",
    "InspectionResult",
    "PushResult",
    "QuantizationResult",
    "SynthesisResult",
    "evaluate",
    "inspect",
    "load",
    "push",
    "quantize",
    "synthesize",
]
