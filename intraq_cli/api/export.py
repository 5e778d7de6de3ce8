"""``export``: write a checkpoint as a file for another runtime, and prove that it computes the same."""

import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from intraq_cli import __version__
from intraq_cli.api.arguments import Model, Text, verb
from intraq_cli.checkpoint.read import Checkpoint, read_checkpoint
from intraq_cli.deploy.libraries import check_packages
from intraq_cli.deploy.lower import float_twin, lower
from intraq_cli.deploy.onnx_file import OPSET, Storage, onnx_model
from intraq_cli.deploy.session import OnnxNetwork, integer_layers, milliseconds, open_session
from intraq_cli.errors import ExportError, UsageError, check_positive
from intraq_cli.evaluation.pictures import named_pictures, picture_batches
from intraq_cli.events import Noted, Report, StageDone, StageStarted, Warned, silent
from intraq_cli.io.atomic import atomic_file, check_output
from intraq_cli.models.source import Source
from intraq_cli.publish.privacy import without_paths
from intraq_cli.publish.recording import record_export
from intraq_cli.results import ExportResult
from intraq_cli.runtime.device import describe_processor
from intraq_cli.synthesis.rendering import images_of_sheet
from intraq_cli.words import some_of, spelled_path

FILE = "model.onnx"
IMAGES = 64
"""Number of images on which the file is compared with the checkpoint."""


@verb
def export(
    folder: Text,
    *,
    to: Literal["onnx"] = "onnx",
    out: str | Path | None = None,
    storage: Storage = "int8",
    images: str | Path | None = None,
    model: Model | None = None,
    batch: int = 1,
    allow_float: bool = False,
    force: bool = False,
    report: Report = silent,
) -> ExportResult:
    """Write a checkpoint as a file that runs in integer arithmetic, and prove that it does.

    The file is checked and loaded by onnxruntime, and the graph that onnxruntime optimized is read back: every layer
    is either an integer operation in it, or is listed with the reason. Logits are compared with those of ``load()``.
    The time for a batch is measured, and that of the same network in float32.

    Args:
        folder: a checkpoint folder.
        to: the file format.
        out: the file; default ``model.onnx`` in the folder.
        storage: with ``int4``, weights of up to 4 bits also take 4 bits in the file.
        images: a folder of pictures to compare on; default: those of its ``samples.png``, else random images.
        model: for a checkpoint made from code, which it does not contain: the ``file.py:factory`` or module again.
        batch: number of images in a batch when time is measured.
        allow_float: write the file even if layers of placement ``integer`` did not become integer operations.
        force: replace an existing file.
        report: function that receives an event for every step.

    Raises:
        IntraqError: there is no such checkpoint, a package is missing, or the file is not what was requested.
    """
    started = time.perf_counter()
    check_positive("--batch", batch)
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder", "give a checkpoint folder that `intraq quantize` wrote")
    check_packages()
    path = Path(out or Path(folder, FILE))
    check_output(path, force)
    checkpoint = read_checkpoint(Path(folder), None if model is None else Source.parse(model))
    if storage == "int4" and min(checkpoint.network.plan.weights.values()) > 4:
        raise UsageError("--storage int4: no weight has 4 bits or fewer", "leave it out: the file would not be smaller")
    report(StageStarted("export", 1, f"{len(checkpoint.network.plan.weights)} layers"))
    made = onnx_model(lower(checkpoint.network), checkpoint.spec.input_size, storage, _about(checkpoint))
    integer, left = integer_layers(made)
    _check_fused(checkpoint, left, allow_float, report)
    pictures = _pictures(checkpoint, Path(folder), None if images is None else Path(images), report)
    content = made.SerializeToString()
    figures = _figures(checkpoint, content, pictures, batch, report)
    with atomic_file(path, force) as file:
        file.write_bytes(content)
    seconds = time.perf_counter() - started
    report(StageDone("export", seconds))
    result = ExportResult(
        path=spelled_path(path),
        format=to,
        opset=OPSET[storage],
        bytes=path.stat().st_size,
        layers_integer=integer,
        layers_float=left,
        seconds=seconds,
        **figures,
    )
    if checkpoint.run and path.resolve() == Path(folder, FILE).resolve():
        proof = {key: value for key, value in asdict(result).items() if key != "path"}
        record_export(Path(folder), checkpoint, proof, report)
    return result


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the metadata of the file: classes, preprocessing, and origin."""
    return {
        "version": __version__,
        "num_classes": checkpoint.num_classes,
        "label_names": checkpoint.label_names,
        "pretrained_cfg": {**checkpoint.config["pretrained_cfg"], **vars(checkpoint.spec)},
        "quantization_config": {k: checkpoint.config["quantization_config"][k] for k in ("weights", "activations")},
        "teacher": without_paths(checkpoint.run.get("teacher") or {}),
    }


def _check_fused(checkpoint: Checkpoint, left: list[dict[str, str]], allow_float: bool, report: Report) -> None:
    """Refuse float layers with placement ``integer``, else report them; products of activations may stay float.

    Raises:
        ExportError: a layer of placement ``integer`` did not become an integer operation.
    """
    if not left:
        return
    planned = [layer for layer in left if layer["name"] in checkpoint.network.plan.weights]
    count = f"{len(left)} layers stay" if len(left) > 1 else "1 layer stays"
    text = f"{count} float: {some_of(['{name} ({reason})'.format(**layer) for layer in left])}"
    integer = checkpoint.network.plan.placement == "integer"
    if planned and integer and not allow_float:
        raise ExportError(text, "add --allow-float to write the file anyway")
    more = "" if integer else "; to avoid this, quantize with --act-placement integer"
    report(Noted(text + more))


def _figures(checkpoint: Checkpoint, content: bytes, pictures: Tensor, batch: int, report: Report) -> dict[str, Any]:
    """Measure how close the file is to the checkpoint, and its time and that of the float network."""
    threads = torch.get_num_threads()
    exported = OnnxNetwork(open_session(content, threads))
    same, difference = _compare(checkpoint, exported, pictures)
    if not math.isfinite(difference):
        raise ExportError(
            "the logits of the exported file or of the checkpoint are NaN or infinite",
            "use load() instead of an export",
        )
    if same < 1:
        different = round((1 - same) * len(pictures))
        report(Warned(f"top-1 predictions differ from the checkpoint's on {different} of {len(pictures)} images"))
    plain = onnx_model(float_twin(checkpoint.network), checkpoint.spec.input_size, "int8", {})
    twin = OnnxNetwork(open_session(plain.SerializeToString(), threads))
    ms_float, ms_quantized = milliseconds([twin, exported], pictures[:1].expand(batch, -1, -1, -1).contiguous())
    return {
        "images": len(pictures),
        "first_choices_equal": same == 1,
        "logits_difference": difference,
        "ms_float": ms_float,
        "ms_quantized": ms_quantized,
        "batch": batch,
        "threads": threads,
        "processor": describe_processor(),
    }


@torch.no_grad()
def _compare(checkpoint: Checkpoint, network: OnnxNetwork, images: Tensor) -> tuple[float, float]:
    """Return the share of equal top-1 predictions, and the largest logit difference in standard deviations."""
    wanted, got = (torch.cat([one(part) for part in images.split(16)]) for one in (checkpoint.network, network))
    same = float((wanted.argmax(1) == got.argmax(1)).float().mean())
    return same, float((wanted - got).abs().max() / wanted.std().clamp(min=1e-12))


def _pictures(checkpoint: Checkpoint, folder: Path, given: Path | None, report: Report) -> Tensor:
    """Return the normalised images ``(B, C, H, W)`` to compare on."""
    spec = checkpoint.spec
    if given is not None:
        ((_, images),) = picture_batches(named_pictures(given), IMAGES, spec, report, batches=1)
        return images
    shown = images_of_sheet(folder / "samples.png", spec)
    if shown is not None:
        return shown
    report(Noted("the checkpoint has no sample images: comparing on random ones"))
    coarse = torch.rand(IMAGES, spec.input_size[0], 8, 8, generator=torch.Generator().manual_seed(0))
    return spec.from_pixels(torch.nn.functional.interpolate(coarse, spec.input_size[1:], mode="bilinear"))
