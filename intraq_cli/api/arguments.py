"""What callers from Python may pass to a verb: converted to the types that it works with, or a usage error."""

import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict, SkipValidation, ValidationError, validate_call
from torch import nn

from intraq_cli.api.python_words import readable_signature, reworded, wrong_call
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
    return value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch


def _assignments(value: Any) -> Any:
    """``{"tuning.steps": 3}`` as the command line spells it; a TOML value is nearly a JSON one."""
    if isinstance(value, Mapping):
        return [f"{key}={json.dumps(one, default=_plain)}" for key, one in value.items()]
    return [value] if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """A value that JSON does not know, as one that it does."""
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


# the last word of an annotation is what errors call its values
Model = Annotated[str | Path | nn.Module, SkipValidation]
"""What :meth:`Source.parse` takes, which says itself what is wrong."""
Models = Annotated[list[Model] | tuple[Model, ...], "a list of models"]
Text = Annotated[str, BeforeValidator(_text), "a string"]
"""A name; a path or a ``torch.device`` too."""
Texts = Annotated[
    list[str] | tuple[str, ...],
    BeforeValidator(_assignments),
    'a dict as {"tuning.steps": 200}, or a list as ["tuning.steps=200"]',
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
"""Images at a time; None: what fits."""
Seed = Annotated[int, BeforeValidator(_seed), "a whole number"]
"""Of random draws."""
Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed), "a tuple of numbers, one for each channel"]
"""One per channel."""


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of ``function`` against its annotations, and run it under torch's usual settings.

    Whole numbers of any type (numpy's, ``8.0``) are taken; a caller may be under ``torch.no_grad`` or
    ``torch.inference_mode``, in which nothing could be learned, or have set another default type or device.

    Raises:
        UsageError: an argument of a wrong type, one that is missing, or one that does not exist.
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
