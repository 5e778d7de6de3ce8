"""Pretrained networks from torchvision and pytorchcv."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch

from intraq_cli.errors import ModelError, first_line
from intraq_cli.models.hub import downloading, is_offline
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.meta_build import untrained
from intraq_cli.models.teacher import Teacher
from intraq_cli.words import did_you_mean


@contextmanager
def _downloading(what: str) -> Iterator[None]:
    """Within the block a library may download weights.

    ``torch.load`` is forced to ``weights_only``, so that no file can run code (torchvision would allow it). The
    library's output goes to stderr.

    Raises:
        ModelError: the weights cannot be downloaded.
    """
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with downloading(what), redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def load_torchvision(name: str, pretrained: bool) -> Teacher:
    """Load a torchvision classifier, with its default weights or without weights (on the meta device if possible).

    Raises:
        ModelError: no such classifier, or its weights cannot be downloaded.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"torchvision has no classifier {name!r}", did_you_mean(name, known))
    weights = models.get_model_weights(name)["DEFAULT"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if pretrained and is_offline() and not cached.is_file():
        raise ModelError(f"cannot download torchvision:{name}: HF_HUB_OFFLINE is set", "unset it")
    if pretrained:
        with _downloading(f"torchvision:{name}"):
            network = models.get_model(name, weights=weights)
    else:
        network = untrained(lambda: models.get_model(name, weights=None))
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    spec = InputSpec((3, crop, crop), tuple(preset.mean), tuple(preset.std), preset.interpolation.value, crop / resize)
    # builders derive these from the weights; without weights they must be passed explicitly
    args = {k: getattr(network, k) for k in ("transform_input", "aux_logits") if hasattr(network, k)}
    categories = weights.meta["categories"]
    cfg = {"license": "bsd-3-clause", "num_classes": len(categories), "tag": str(weights).rpartition(".")[2]}
    return Teacher(network, spec, f"torchvision:{name}", name, f"torchvision:{name}", args, cfg)


def load_pytorchcv(name: str, pretrained: bool) -> Teacher:
    """Load a pytorchcv network. The library does not specify the input, so the usual ImageNet preprocessing is assumed.

    Raises:
        ModelError: pytorchcv is not installed, has no such network, or its weights cannot be downloaded.
    """
    try:
        from pytorchcv.model_provider import get_model
    except ImportError as error:
        raise ModelError("pytorchcv is not installed", "pip install pytorchcv") from error
    with _downloading(f"pytorchcv:{name}"):
        try:
            network = get_model(name, pretrained=True) if pretrained else untrained(lambda: get_model(name))
        except ValueError as error:
            raise ModelError(f"pytorchcv has no model {name!r}: {first_line(error)}") from error
    size = tuple(getattr(network, "in_size", (224, 224)))
    spec = InputSpec((3, *size), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.875)
    return Teacher(network, spec, f"pytorchcv:{name}", name, f"pytorchcv:{name}")
