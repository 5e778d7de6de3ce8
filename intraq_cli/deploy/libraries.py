"""Packages that only exports need: an optional extra."""

from importlib import import_module
from typing import Any

from intraq_cli.errors import ExportError


def library(name: str) -> Any:
    """The module ``onnx``, ``onnxscript`` or ``onnxruntime``.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} is not installed", "pip install 'intraq[onnx]'") from error
