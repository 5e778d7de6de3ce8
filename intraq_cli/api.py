"""The verbs as functions: the commands of the same names call these and print what they return."""

import copy
import math
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from intraq_cli.device import choose_device, describe_device, place
from intraq_cli.errors import CheckpointError, DeviceError, ModelError, RecipeError, UsageError
from intraq_cli.evaluation.accuracy import compare
from intraq_cli.evaluation.data import open_data
from intraq_cli.evaluation.fidelity import Fidelity, fidelity
from intraq_cli.events import Report, StageDone, StageStarted, Warned, silent
from intraq_cli.images import contact_sheet, load_images, save_images
from intraq_cli.inspection import InspectionResult, expected_bytes, inspect_layers
from intraq_cli.output import check_output, whole_file, whole_folder
from intraq_cli.quantization.calibration import calibrate, warm_up
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.quantization.quantizers import Placement
from intraq_cli.recipe import Recipe
from intraq_cli.sources import InputOverride, is_factory, is_local, load_teacher, sketch_teacher
from intraq_cli.synthesis.synthesizer import Synthetic, synthesize_images
from intraq_cli.teacher import Anatomy, InputSpec, Teacher, examine
from intraq_cli.tuning.tuner import augmented_batches, tune
from intraq_cli.zoo import load_recipe

CALIBRATION_IMAGES = 128
SAMPLED_IMAGES = 64
"""Random images that the first layers see where there are no synthetic ones."""
EVALUATION_BATCH = 100


@dataclass(frozen=True)
class SynthesisResult:
    """What ``synthesize`` made; shares are in percent."""

    path: str
    model: str
    n: int
    image_shape: tuple[int, int, int]
    seconds: float
    losses: dict[str, float]
    teacher_accuracy: float
    heterogeneity: float
    seed: int
    device: str
    dry_run: bool = False


@dataclass(frozen=True)
class QuantizationResult:
    """What ``quantize`` made; shares are in percent."""

    path: str
    model: str
    w_bits: int
    a_bits: int
    recipe: str
    bytes_float: int
    bytes_quantized: int
    agreement: float
    """With the teacher, on synthetic images held out from tuning; NaN (in JSON: null) without images."""
    kl: float
    """From the teacher, in nats, on the same images."""
    heterogeneity: float
    seconds: float
    stages: dict[str, float]
    seed: int
    device: str
    act_placement: str
    held_out: int
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    sqnr: dict[str, float] = field(default_factory=dict)
    """Signal to quantization noise of what every batch norm puts out, in dB, on the same images."""
    dry_run: bool = False


@dataclass(frozen=True)
class EvaluationResult:
    """Accuracies in percent."""

    target: str
    data: str
    n: int
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    agreement: float
    seconds: float
    device: str


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
    if out is not None:
        check_output(Path(out), force)
    teacher = load_teacher(model, InputOverride(input_size, mean, std), weights)
    path = Path(out or f"{teacher.name}-images.safetensors")
    check_output(path, force)
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
    made = _synthesize(teacher, anatomy, settings, seed, where, report)
    with whole_file(path, force) as scratch:
        save_images(scratch, made, _origin(teacher, settings, seed))
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
    started = time.perf_counter()
    _check_bits(w, a, first_last_bits)
    _check_placement(act_placement)
    settings = load_recipe(recipe).override(list(set))
    if images is None and not settings.synthesis.num_images and settings.tuning.steps:
        raise RecipeError(
            f"recipe {settings.name} makes no images (synthesis.num_images = 0), and has tuning.steps",
            "set tuning.steps=0, or choose another recipe",
        )
    where = choose_device(device)
    if out is not None:
        check_output(Path(out), force)
    teacher = load_teacher(model, InputOverride(input_size, mean, std), weights)
    path = Path(out or f"{teacher.name}-w{w}a{a}")
    check_output(path, force)
    anatomy = _look(teacher, where)
    plan = plan_quantization(anatomy.trace, w, a, act_placement, first_last_bits)
    made: Synthetic | None = None
    stages: dict[str, float] = {}
    watched = _timing(report, stages)
    if images is not None:
        made, origin = load_images(Path(images), teacher.spec, anatomy.num_classes)
        if origin.get("sha256") != teacher.sha256():
            report(Warned(f"{images} was made from other weights ({origin.get('model')}) than {model}"))
    bytes_float = sum(t.numel() * t.element_size() for t in teacher.network.state_dict().values())
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
    if images is None and settings.synthesis.num_images:
        made = _synthesize(teacher, anatomy, settings, seed, where, watched)
    with _out_of_memory():
        student = QuantizedNetwork(copy.deepcopy(teacher.network), plan, anatomy.trace.computed).to(where).eval()
        used, held_out = _hold_out(made, settings) if made else (None, None)
        _calibrate(student, teacher, used, settings, seed, where, watched)
        if used is None or held_out is None:
            stored, tuned, follows = student.freeze(), {}, Fidelity()
        else:
            tuned = tune(student, teacher.network, used.images, used.labels, settings.tuning, seed, where, watched)
            stored = student.freeze()
            unseen = _on_device(held_out.split(EVALUATION_BATCH), where)
            follows = fidelity(student, teacher.network, unseen, anatomy.trace.batch_norms)
    config = checkpoint_config(teacher, anatomy.num_classes, plan, w, a)
    losses = {"synthesis": made.losses, "tuning": tuned} if made else {}
    measured: dict[str, Any] = {"bytes_float": bytes_float}
    if made:
        measured |= {
            "agreement": follows.agreement,
            "kl": follows.kl,
            "sqnr": follows.sqnr,
            "held_out": follows.n,
            "heterogeneity": made.heterogeneity,
            "teacher_accuracy_synthetic": 100 * made.teacher_accuracy,
        }
    run: dict[str, Any] = {
        "name": teacher.name,
        "command": command or f"quantize({model!r}, w={w}, a={a}, recipe={recipe!r}, seed={seed})",
        "recipe": {"name": settings.name, **settings.to_dict()},
        "images": str(images) if images is not None else None,
        "seed": seed,
        "teacher": {
            "source": teacher.source,
            "weights": teacher.weights,
            "revision": teacher.revision,
            "sha256": teacher.sha256(),
        },
        "needs_factory": is_factory(teacher.architecture),
        "device": describe_device(where),
        "versions": _versions(),
        "losses": losses,
        "measured": measured,
        "stages": stages,
    }
    with whole_folder(path, force) as folder:
        measured["bytes_quantized"] = write_weights(folder, checkpoint_tensors(student, stored))
        run["seconds"] = time.perf_counter() - started
        write_json(folder / "config.json", config)
        write_json(folder / "run.json", run)
        (folder / "README.md").write_text(model_card(config, run), encoding="utf-8")
        if made:
            contact_sheet(made.images, teacher.spec).save(folder / "samples.png")
    return replace(
        result,
        bytes_quantized=measured["bytes_quantized"],
        agreement=follows.agreement,
        kl=follows.kl,
        sqnr=follows.sqnr,
        heterogeneity=made.heterogeneity if made else math.nan,
        seconds=time.perf_counter() - started,
        held_out=follows.n,
        losses=losses,
    )


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
    state = teacher.network.state_dict().values()
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
        bytes_float=sum(t.numel() * t.element_size() for t in state),
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
        report: told of every batch.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    where = choose_device(device)
    override = InputOverride(input_size, mean, std)
    checkpoint = _find_checkpoint(target, model, where, revision)
    if checkpoint is None:
        teacher = load_teacher(target, override, weights)
        labels, num_classes = teacher.label_names, _look(teacher, where, strict=False).num_classes
        network: nn.Module = teacher.network
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
    place(teacher.network, where)
    spec = teacher.spec if checkpoint is None else checkpoint.spec
    images = open_data(data, spec, num_classes, labels, data_dir, split).sample(limit, seed)
    report(StageStarted("evaluation", -(-images.count // batch_size), f"{images.count} images"))
    with _out_of_memory():
        accuracy = compare(network, teacher.network, images.batches(batch_size, report), where, report)
    seconds = time.perf_counter() - started
    report(StageDone("evaluation", seconds))
    return EvaluationResult(target, images.name, **asdict(accuracy), seconds=seconds, device=str(where))


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


def _look(teacher: Teacher, device: torch.device, strict: bool = True) -> Anatomy:
    anatomy = examine(teacher, strict)
    place(teacher.network, device)
    return anatomy


def _synthesize(
    teacher: Teacher, anatomy: Anatomy, recipe: Recipe, seed: int, device: torch.device, report: Report
) -> Synthetic:
    with _out_of_memory():
        return synthesize_images(
            teacher.network,
            None if anatomy.classifier is None else teacher.network.get_submodule(anatomy.classifier),
            teacher.spec.input_size,
            anatomy.num_classes,
            teacher.spec.bounds,
            recipe.synthesis,
            seed,
            device,
            report,
        )


def _hold_out(made: Synthetic, recipe: Recipe) -> tuple[Synthetic, Tensor]:
    """Images to tune on, and the last ones, on which agreement is measured; with too few, the same ones twice."""
    count = min(round(len(made.images) * recipe.tuning.holdout), len(made.images) - 1)
    if count < 1:
        return made, made.images
    keep = len(made.images) - count
    used = Synthetic(made.images[:keep], made.labels[:keep], made.losses, made.teacher_accuracy, made.heterogeneity)
    return used, made.images[keep:]


def _calibrate(
    student: QuantizedNetwork,
    teacher: Teacher,
    used: Synthetic | None,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    report: Report,
) -> None:
    """Give the student its first grids; without images by what batch-norm statistics promise of real ones."""
    started = time.perf_counter()
    config, tuning = recipe.quantization, recipe.tuning
    report(StageStarted("calibration", 1, f"{len(student.plan.activations)} activations"))
    if used is not None and config.activation_range == "ema":
        # published: the warm-up runs on what tuning runs on, the weights already quantized
        student.quantize_weights(config)
        batches = augmented_batches(used.images, used.labels, tuning.batch_size, tuning.crop_eta, seed)
        warm_up(student, _on_device((x for x, _ in islice(batches, config.ema_steps)), device), config)
    else:
        images = used.images[:CALIBRATION_IMAGES] if used else _random_pixels(teacher.spec)
        (images,) = _on_device([images], device)
        calibrate(student, teacher.network, images, config, sampled=used is None)
    place(student, device)
    report(StageDone("calibration", time.perf_counter() - started))


def _random_pixels(spec: InputSpec) -> Tensor:
    """For the layers before the first batch norm, where there are no synthetic images."""
    low, high = (edge[:, None, None] for edge in spec.bounds)
    return low + (high - low) * torch.rand(SAMPLED_IMAGES, *spec.input_size, generator=torch.Generator().manual_seed(0))


def _on_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    for batch in batches:
        yield batch.to(device, torch.float32, memory_format=torch.channels_last)


def _origin(teacher: Teacher, recipe: Recipe, seed: int) -> dict[str, Any]:
    return {
        "model": teacher.source,
        "revision": teacher.revision,
        "sha256": teacher.sha256(),
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
    if noted.get("sha256") not in (None, teacher.sha256()):
        report(Warned(f"the float weights of {source} are not those that the checkpoint was made from"))
    return teacher


def _timing(report: Report, stages: dict[str, float]) -> Report:
    def watched(event: Any) -> None:
        if isinstance(event, StageDone):
            stages[event.stage] = event.seconds
        report(event)

    return watched


class _out_of_memory:  # noqa: N801 - reads as a condition in a with statement
    """Within the block, running out of memory is an error with a hint."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        if no_memory:
            hint = "use smaller batches: --set synthesis.batch_size=64 --set tuning.batch_size=32"
            raise DeviceError("out of memory", hint) from error


__all__ = [
    "EvaluationResult",
    "InspectionResult",
    "QuantizationResult",
    "SynthesisResult",
    "evaluate",
    "inspect",
    "load",
    "quantize",
    "synthesize",
]
