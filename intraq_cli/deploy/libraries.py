"""Optional packages that only exports need."""

from importlib import import_module
from typing import Any

from intraq_cli.errors import ExportError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages that an export needs; the second one is needed by ``torch.onnx``."""


def check_packages() -> None:
    """Check that the packages for an export are installed, before hours of work.

    Raises:
        ExportError: one of them is not installed.
    """
    for name in NEEDED:
        library(name)


def library(name: str) -> Any:
    """Import and return one of :data:`NEEDED`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} is not installed", "pip install onnx onnxscript onnxruntime") from error
