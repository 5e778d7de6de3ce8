"""What callers from Python may pass to a verb: converted to the types that it works with, or a usage error."""

import os
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict, SkipValidation, ValidationError, validate_call
from torch import nn

from intraq_cli.errors import UsageError, one_line

P = ParamSpec("P")
R = TypeVar("R")


def _text(value: Any) -> Any:
    if isinstance(value, torch.device):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch


Model = Annotated[str | Path | nn.Module, SkipValidation]
"""What :meth:`Source.parse` takes, which says itself what is wrong."""
Models = list[Model] | tuple[Model, ...]
Text = Annotated[str, BeforeValidator(_text)]
"""A name; a path or a ``torch.device`` too."""
Texts = Annotated[
    list[str] | tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
Paths = Annotated[
    list[str | Path] | tuple[str | Path, ...],
    BeforeValidator(lambda value: [] if value is None else [value] if isinstance(value, (str, os.PathLike)) else value),
]
"""One path, several, or None."""
Size = Annotated[tuple[int, int, int], BeforeValidator(_listed)]
"""(C, H, W)."""
Widths = Annotated[int | tuple[int, ...] | None, BeforeValidator(_listed)]
"""One number of bits, or several to choose from."""
Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed)]
"""One per channel."""


def check_unused(why: str, **options: Any) -> None:
    """Refuse options that were given and would do nothing.

    Raises:
        UsageError: it names them, and says ``why``.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: {why}", f"leave {'it' if len(given) == 1 else 'them'} out")


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of ``function`` against its annotations, and run it as if under no gradient mode.

    Whole numbers of any type (numpy's, ``8.0``) are taken; a caller may be under ``torch.no_grad`` or
    ``torch.inference_mode``, in which nothing could be learned.

    Raises:
        UsageError: an argument of a wrong type, one that is missing, or one that does not exist.
    """
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                return checked(*args, **kwargs)
        except ValidationError as error:
            if error.title != function.__name__:
                raise
            first = error.errors(include_url=False)[0]
            name = first["loc"][0]
            if isinstance(name, int):  # by position
                name = list(signature(function).parameters)[name]
            given = "" if first["type"].startswith(("missing", "unexpected")) else f" is {first['input']!r:.80}"
            raise UsageError(f"{function.__name__}(): {name}{given}: {one_line(first['msg'])}") from error

    return call
