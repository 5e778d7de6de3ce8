"""``predict``: the five most probable classes of each picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from intraq_cli.api.arguments import Model, Numbers, Size, Text, verb
from intraq_cli.checkpoint.read import Checkpoint
from intraq_cli.errors import UsageError, check_unused
from intraq_cli.evaluation.accuracy import likeliest
from intraq_cli.evaluation.pictures import Picture, named_pictures, picture_batches
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.jobs.pipeline import EVALUATION_BATCH
from intraq_cli.jobs.targets import find_quantized, load_float
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import logits_of
from intraq_cli.results import PredictionResult
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.torch_errors import out_of_memory


@verb
def predict(
    target: Model,
    images: str | Path | Sequence[str | Path],
    *,
    model: Model | None = None,
    revision: str | None = None,
    device: Text = "auto",
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    weights: str | Path | None = None,
    report: Report = silent,
) -> list[PredictionResult]:
    """Predict the five most probable classes of each picture.

    Args:
        target: a checkpoint folder, the Hub id of one, an exported ``.onnx`` file, or a float model.
        images: image files, or folders of them.
        model: for a checkpoint made from code, which it does not contain: the ``file.py:factory`` or module again.
        revision: branch, tag or commit of a checkpoint on the Hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        input_size: (C, H, W), if a float model does not state it.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        crop_pct: of a float model: side of the centre crop divided by the shorter side of the resized image.
        interpolation: of a float model: ``bicubic``, ``bilinear``, ...
        weights: a safetensors or ``.pth`` file for a float model, in place of timm's weights.
        report: function that receives a warning for every unreadable picture in a folder, which is skipped.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    given = [images] if isinstance(images, (str, Path)) else list(images)
    if not given:
        raise UsageError("no images are given", "give image files, or folders of them")
    where = choose_device(device)
    name = str(target) if isinstance(target, (str, Path)) else ""
    code = None if model is None else Source.parse(model)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    found = find_quantized(name, code, where, revision, override)
    if found is None:
        source = Source.parse(target, override, weights=weights, revision=revision)
        teacher, _ = load_float(source, where, model)
        network, spec, labels = teacher.network, teacher.spec, teacher.label_names
    else:
        check_unused(f"{name} has its own weights", weights=weights)
        if model is not None and not (isinstance(found, Checkpoint) and needs_code(found.config["architecture"])):
            report(Noted(f"--model is not used: {name} contains its own architecture"))
        network, spec, labels = found.network, found.spec, found.label_names
    pictures = [picture for path in given for picture in named_pictures(Path(path))]
    with out_of_memory("give fewer images at a time, or use --device cpu"):
        return _predictions(network, where, spec, labels, pictures, report)


def probabilities(out: Tensor) -> Tensor:
    """Return the softmax of ``(B, K)`` logits; the output of a network that ends in a softmax is unchanged."""
    are_some = bool((out >= 0).all()) and torch.allclose(out.sum(1), torch.ones_like(out[:, 0]), atol=1e-3)
    return out if are_some else out.softmax(1)


@torch.no_grad()
def _predictions(
    network: nn.Module,
    device: torch.device,
    spec: InputSpec,
    labels: list[str] | None,
    pictures: Sequence[Picture],
    report: Report,
) -> list[PredictionResult]:
    """Return the most probable classes of all readable pictures, and report the others.

    Raises:
        DataError: no picture can be read, or one that was given as a file cannot.
    """
    results: list[PredictionResult] = []
    for files, images in picture_batches(pictures, EVALUATION_BATCH, spec, report):
        logits = logits_of(network, images.to(device))
        best = likeliest(logits)
        chances = 100 * probabilities(logits).gather(1, best)
        for file, classes, shares in zip(files, best.tolist(), chances.tolist(), strict=True):
            if math.isnan(shares[0]):
                report(Warned(f"{file}: the network's logits are NaN"))
            names = [labels[c] if labels else str(c) for c in classes]
            results.append(PredictionResult(str(file), classes, names, shares))
    return results
