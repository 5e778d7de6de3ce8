"""Packages that only exports need: an optional extra."""

from importlib import import_module
from typing import Any

from intraq_cli.errors import ExportError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""By an export; the second one by ``torch.onnx``."""


def check_packages() -> None:
    """See that what an export needs is installed, before hours of work.

    Raises:
        ExportError: it is not.
    """
    for name in NEEDED:
        library(name)


def library(name: str) -> Any:
    """The module of one of :data:`NEEDED`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} is not installed", "pip install onnx onnxscript onnxruntime") from error
