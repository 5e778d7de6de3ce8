"""Builds networks by the architecture name in a ``config.json``, only from known registries."""

import re
from typing import Any

from torch import nn

from intraq_cli.errors import ModelError, first_line
from intraq_cli.models.meta_build import BUILD_ERRORS, MAX_PARTS, limited
from intraq_cli.models.nets import ARCHITECTURES


def build_architecture(architecture: str, num_classes: int | None, model_args: dict[str, Any]) -> nn.Module:
    """Build an untrained network of an architecture from timm, torchvision, pytorchcv or this package.

    Raises:
        ModelError: the architecture does not exist, or does not accept these arguments.
    """
    kind, colon, name = architecture.partition(":")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        with limited(MAX_PARTS):
            return _built(architecture, kind if colon else "", name, {**classes, **model_args})
    except BUILD_ERRORS as error:
        raise ModelError(f"cannot build {architecture}: {first_line(error)}") from error


def _built(architecture: str, kind: str, name: str, args: dict[str, Any]) -> nn.Module:
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](**args)
    if kind == "torchvision":
        from torchvision import models

        if name not in models.list_models(module=models):
            raise ModelError(f"torchvision has no classifier {name!r}")
        quiet = {"init_weights": False} if "transform_input" in args else {}
        return models.get_model(name, weights=None, **{**quiet, **args})
    if kind == "pytorchcv":
        from pytorchcv.model_provider import get_model

        return get_model(name, pretrained=False)
    import timm

    # accept only registry names: timm itself also accepts folders and repositories
    if not re.fullmatch(r"[\w.-]+", architecture, re.ASCII) or not timm.is_model(architecture):
        raise ModelError(f"timm {timm.__version__} has no architecture {architecture!r}", "install a newer timm")
    return timm.create_model(architecture, pretrained=False, **args)
