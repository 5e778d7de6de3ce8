"""Convert the arguments of a Python call to the types that a verb works with, or raise a usage error."""

import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict, SkipValidation, ValidationError, validate_call
from torch import nn

from intraq_cli.api.call_errors import readable_signature, reworded, wrong_call
from intraq_cli.choices import LARGEST_SEED
from intraq_cli.errors import IntraqError, UsageError, check_positive
from intraq_cli.runtime.torch_defaults import usual_settings

P = ParamSpec("P")
R = TypeVar("R")


def _text(value: Any) -> Any:
    if isinstance(value, torch.device):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value  # numpy and torch values


def _assignments(value: Any) -> Any:
    """Write ``{"tuning.steps": 3}`` as on the command line; JSON values are nearly always valid TOML values."""
    if isinstance(value, Mapping):
        return [f"{key}={json.dumps(one, default=_plain)}" for key, one in value.items()]
    return [value] if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Convert a value that JSON cannot hold to one that it can."""
    found = _text(_listed(value))
    return found if isinstance(found, (str, int, float, list)) else str(value)


def _seed(value: Any) -> Any:
    value = _listed(value)
    if type(value) is int and not 0 <= value <= LARGEST_SEED:
        raise UsageError(f"--seed {value}: must be from 0 to {LARGEST_SEED}")
    return value


def _batch_size(value: Any) -> Any:
    value = _listed(value)
    if type(value) is int:
        check_positive("--batch-size", value)
    return value


# error messages describe expected values by the string in the annotation
Model = Annotated[str | Path | nn.Module, SkipValidation]
"""Any input of :meth:`Source.parse`, which reports wrong ones itself."""
Models = Annotated[list[Model] | tuple[Model, ...], "a list of models"]
Text = Annotated[str, BeforeValidator(_text), "a string"]
"""A string; a path or a ``torch.device`` is converted to one."""
Texts = Annotated[
    list[str] | tuple[str, ...],
    BeforeValidator(_assignments),
    'a dict such as {"tuning.steps": 200}, or a list such as ["tuning.steps=200"]',
]
"""Overrides of a recipe."""
Paths = Annotated[
    list[str | Path] | tuple[str | Path, ...],
    BeforeValidator(lambda value: [] if value is None else [value] if isinstance(value, (str, os.PathLike)) else value),
    "a path or a list of paths",
]
"""One path, several, or None."""
Size = Annotated[tuple[int, int, int], BeforeValidator(_listed), "(C, H, W), three whole numbers"]
Widths = Annotated[
    int | tuple[int, ...] | None, BeforeValidator(_listed), "a whole number, or several to choose from under a budget"
]
"""One number of bits, or several to choose from."""
BatchSize = Annotated[int | None, BeforeValidator(_batch_size), "a whole number"]
"""Number of images at a time; None: what fits in memory."""
Seed = Annotated[int, BeforeValidator(_seed), "a whole number"]
"""Seed of random draws."""
Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed), "a tuple of numbers, one for each channel"]
"""One number for each channel."""


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of ``function`` against its annotations, and run it under torch's usual settings.

    Whole numbers of any type (numpy's, ``8.0``) are accepted. The caller may be inside ``torch.no_grad`` or
    ``torch.inference_mode``, which would prevent learning, or may have set another default dtype or device.

    Raises:
        UsageError: an argument has a wrong type, is missing, or does not exist.
    """
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with usual_settings():
                return checked(*args, **kwargs)
        except ValidationError as error:
            if error.title != function.__name__:
                raise
            first = error.errors(include_url=False)[0]
            raise reworded(wrong_call(function, first, args, kwargs)) from None
        except IntraqError as error:
            reworded(error)
            raise

    call.__signature__ = readable_signature(function)  # type: ignore[attr-defined]
    return call
