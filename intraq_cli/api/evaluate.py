"""``evaluate``: top-1 and top-5 accuracy of a network and of its float teacher."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import SkipValidation
from torch import nn

from intraq_cli.api.arguments import Model, Numbers, Seed, Size, Text, verb
from intraq_cli.checkpoint.config import is_checkpoint
from intraq_cli.checkpoint.read import Checkpoint
from intraq_cli.deploy.exported import Exported
from intraq_cli.errors import ModelError, UsageError, check_positive
from intraq_cli.evaluation.accuracy import TOP, Accuracy, compare, predictor_of
from intraq_cli.evaluation.data import open_data
from intraq_cli.evaluation.labelled_images import LabelledImages
from intraq_cli.evaluation.prediction_cache import CachedPredictor, PredictionCache, cache_folder
from intraq_cli.events import Noted, Report, StageDone, StageStarted, Warned, silent
from intraq_cli.jobs.pipeline import EVALUATION_BATCH
from intraq_cli.jobs.targets import find_quantized, load_float, teacher_of
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Teacher, place_classifier
from intraq_cli.publish.recording import check_record, record
from intraq_cli.results import EvaluationResult
from intraq_cli.runtime.device import choose_device, kept_memory
from intraq_cli.runtime.torch_errors import out_of_memory


@verb
def evaluate(
    target: Model,
    data: Text,
    *,
    model: Model | None = None,
    data_dir: Text | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = EVALUATION_BATCH,
    device: Text = "auto",
    seed: Seed = 0,
    revision: str | None = None,
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    weights: str | Path | None = None,
    save: bool = False,
    cache: bool = True,
    kept: Annotated[PredictionCache | None, SkipValidation] = None,
    report: Report = silent,
) -> EvaluationResult:
    """Measure a checkpoint, or a float model, and the float teacher on the same images.

    Args:
        target: a checkpoint folder, the Hub id of one, an exported ``.onnx`` file, or a float model (also as an
            ``nn.Module``).
        data: a folder of class folders, ``cifar10``, ``cifar100``, ``digits`` or ``hfds:ORG/NAME``.
        model: the teacher again, if the checkpoint cannot name it: ``file.py:factory``, or the ``nn.Module``.
        data_dir: the folder that contains ``cifar10`` or ``cifar100``.
        split: split of a data set on the Hub.
        limit: measure on a seeded random sample of this many images.
        batch_size: number of images at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: seed of the sample.
        revision: branch, tag or commit of a checkpoint on the Hub.
        input_size: (C, H, W), if a float model does not state it.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        crop_pct: of a float model: side of the centre crop divided by the shorter side of the resized image.
        interpolation: of a float model: ``bicubic``, ``bilinear``, ...
        weights: a safetensors or ``.pth`` file for the teacher, in place of timm's weights.
        save: record the results in the checkpoint folder ``target`` and in its model card; the float model must have
            the weights that the checkpoint was made from.
        cache: reuse the float teacher's predictions that an earlier run on these images stored, and store them for
            the next run (only for folders of class folders).
        kept: float teachers' predictions, shared by calls with the same options (:func:`intraq_cli.evaluate_many`).
        report: function that receives an event for every batch.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    started = time.perf_counter()
    if isinstance(target, (list, tuple)):
        raise UsageError("evaluate() takes one target", "use evaluate_many() for several")
    check_positive("--limit", limit)
    check_positive("--batch-size", batch_size)
    if save:
        _check_save(target)
    where = choose_device(device)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    given = None if model is None else Source.parse(model, weights=weights)
    name = "" if isinstance(target, nn.Module) else str(target)
    found = find_quantized(name, given, where, revision, override)
    if found is None:
        source = Source.parse(target, override, weights=weights, revision=revision)
        teacher, classes = load_float(source, where, model)
        pair = _Pair(teacher.network, teacher, teacher.spec, classes, teacher.label_names)
        name = name or source.spelled
    else:
        teacher = teacher_of(found, given, weights, report, from_hub=not Path(name).is_dir())
        pair = _quantized_pair(found, teacher, where, save)
    images = open_data(data, pair.spec, pair.num_classes, pair.labels, data_dir, split)
    whole, images = images.count, images.sample(limit, seed)
    for note in images.notes:
        report(Warned(note))
    report(StageStarted("evaluation", -(-images.count // batch_size), f"{images.count} images"))
    kept = kept or PredictionCache(cache_folder() if cache else None)
    with kept_memory(where), out_of_memory("use a smaller --batch-size"):
        accuracy = _measure(pair, images, batch_size, where, kept, report)
    seconds = time.perf_counter() - started
    report(StageDone("evaluation", seconds))
    result = EvaluationResult(name, images.name, **asdict(accuracy), seconds=seconds, device=str(where))
    if not isinstance(found, Checkpoint) or not save:
        return result
    sampled = limit is not None and result.n <= limit < whole
    drawn = {"limit": limit if sampled else None, "seed": seed if sampled else None}
    figures = {key: value for key, value in asdict(result).items() if key not in ("target", "saved")}
    part = (split or "test") if data.startswith("hfds:") else None
    record(Path(name), found, {**figures, "split": part, **drawn}, report)
    return replace(result, saved=str(Path(name) / "run.json"))


@dataclass(frozen=True)
class _Pair:
    """The network to measure, and its float teacher."""

    network: nn.Module
    teacher: Teacher
    spec: InputSpec
    num_classes: int
    labels: list[str] | None


def _measure(
    pair: _Pair, images: LabelledImages, batch_size: int, device: torch.device, kept: PredictionCache, report: Report
) -> Accuracy:
    """Measure both networks on all images; reuse stored predictions of a teacher with the same weights."""
    digest = images.digest() if images.digest and kept.folder else None  # looking at all files takes time
    teacher = pair.teacher
    network = (teacher.sha256, teacher.architecture, teacher.model_args, pair.spec, pair.num_classes, pair.labels)
    key = (*network, digest or images.name, images.count, batch_size, device.type, torch.__version__)
    known = kept.load(key, images.count, min(TOP, pair.num_classes))
    theirs = CachedPredictor(predictor_of(teacher.network, device), known)
    ours = theirs if pair.network is teacher.network else predictor_of(pair.network, device)
    accuracy = compare(ours, theirs, images.batches(batch_size, report, pinned=device.type == "cuda"), report)
    if theirs.reused:
        report(
            Noted(f"reusing the float model's stored predictions for {theirs.reused} images; --no-cache repeats them")
        )
    if theirs.changed:
        kept.save(key, theirs.known, on_disk=digest is not None)
    return accuracy


def _quantized_pair(found: Checkpoint | Exported, teacher: Teacher, device: torch.device, recorded: bool) -> _Pair:
    theirs, ours = place_classifier(teacher, device), found.num_classes
    if theirs != ours:
        hint = "give the float model that it was made from with --model"
        raise ModelError(f"{teacher.source} has {theirs} classes, the checkpoint {ours}", hint)
    # the card would give the accuracy of other float weights as that of the checkpoint's teacher
    if recorded and (found.run.get("teacher") or {}).get("sha256") not in (None, teacher.sha256):
        what = f"--save: the checkpoint was not made from the float weights of {teacher.source}"
        raise UsageError(what, "leave it out, or give the float model that the checkpoint was made from")
    return _Pair(found.network, teacher, found.spec, ours, found.label_names)


def _check_save(target: Model) -> None:
    if isinstance(target, nn.Module) or not is_checkpoint(Path(target)):
        name = "a module" if isinstance(target, nn.Module) else target
        raise UsageError(
            f"--save: {name} is not a checkpoint folder", "leave it out: only a checkpoint folder can hold results"
        )
    check_record(Path(target))
