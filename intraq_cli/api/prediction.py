"""``predict``: the first five classes of pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from intraq_cli.api.arguments import Model, Numbers, Size, Text, verb
from intraq_cli.api.loading import find_quantized
from intraq_cli.api.pipeline import EVALUATION_BATCH
from intraq_cli.api.teachers import placed
from intraq_cli.errors import ModelError, UsageError
from intraq_cli.evaluation.pictures import picture_files, read_pictures
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import logits_of
from intraq_cli.results import PredictionResult
from intraq_cli.runtime.device import choose_device
from intraq_cli.runtime.refusals import out_of_memory

FIRST = 5
MOST = 10_000
"""Pictures of one folder."""


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
) -> list[PredictionResult]:
    """Say what is in pictures.

    Args:
        target: a checkpoint folder, the Hub id of one, an exported ``.onnx`` file, or a float model.
        images: files, or folders of them.
        model: for a checkpoint made from code, which it does not hold: the ``file.py:factory`` or the module again.
        revision: of a checkpoint on the Hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        input_size: (C, H, W), where a float model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, of a float model.
        interpolation: ``bicubic``, ``bilinear``, ..., of a float model.
        weights: of a float model: a safetensors or ``.pth`` file, in place of timm's weights.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    given = [images] if isinstance(images, (str, Path)) else list(images)
    if not given:
        raise UsageError("no images", "give files, or folders of them")
    where = choose_device(device)
    name = str(target) if isinstance(target, (str, Path)) else ""
    code = None if model is None else Source.parse(model)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    found = find_quantized(name, code, where, revision, override)
    if found is None:
        teacher = Source.parse(target, override, weights=weights, revision=revision).load()
        placed(teacher, where)
        network, spec, labels = teacher.network, teacher.spec, teacher.label_names
    else:
        network, spec, labels = found.network, found.spec, found.label_names
    files = [file for path in given for file in picture_files(Path(path), MOST)]
    results = []
    with out_of_memory(), torch.no_grad():
        for k in range(0, len(files), EVALUATION_BATCH):
            part = files[k : k + EVALUATION_BATCH]
            chances = logits_of(network, read_pictures(part, spec).to(where)).softmax(1)
            if labels and len(labels) != chances.shape[1]:
                classes = f"{len(labels)} label_names for {chances.shape[1]} classes"
                raise ModelError(f"{target}: config.json has {classes}", "mend it")
            best = chances.topk(min(FIRST, chances.shape[1]))
            rows = zip(part, best.indices.tolist(), (100 * best.values).tolist(), strict=True)
            results += [
                PredictionResult(str(file), classes, [labels[c] if labels else str(c) for c in classes], shares)
                for file, classes, shares in rows
            ]
    return results
