"""User-defined functions that a recipe names: losses on the images, and weight roundings.

In Python, functions are decorated and referred to by their names. Recipe files and the command line refer to them as
``path/to/file.py:function``.
"""

import hashlib
import inspect
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from intraq_cli.errors import IntraqError, RecipeError, UsageError, first_line, interruption
from intraq_cli.io.digests import file_digest
from intraq_cli.recipe import ROUNDINGS
from intraq_cli.runtime.micro_batches import is_out_of_memory

F = TypeVar("F", bound=Callable[..., Any])

BUILT_IN_LOSSES = ("bns", "sil", "mdc", "total")
BESIDE_LOSSES = ("stage", "step", "images", "seconds")
"""Other fields in a row of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Extension:
    """A user-defined function; its exceptions are turned into one-line errors."""

    name: str
    """Its name in the recipe."""
    function: Callable[[Any], Any]
    file: str
    """The file that it is in, for messages."""
    sha256: str | None
    """Digest of that file, or of the function's source if there is no file; None if the source is not available."""

    @property
    def title(self) -> str:
        """The function's name without its file."""
        return self.name.rpartition(":")[2]

    def __call__(self, given: Any) -> Any:
        """Call the function and return its result.

        Raises:
            RecipeError: the function fails.
        """
        try:
            return self.function(given)
        except IntraqError:
            raise
        except Exception as error:
            if is_out_of_memory(error) or interruption(error):
                raise
            raise RecipeError(explained(error, Path(self.file)), "the error is in that file") from error

    def refuse(self, message: str) -> RecipeError:
        """Return the error for a result that is not valid."""
        return RecipeError(f"{self.name} {message}", f"see `{self.title}` in {self.file}")


IMAGE_LOSSES: dict[str, Extension] = {}
WEIGHT_ROUNDINGS: dict[str, Extension] = {}


def image_loss(function: F) -> F:
    """Decorator: let recipes name ``function`` as a loss on the images.

    It takes an :class:`intraq_cli.LossInput` and returns a scalar tensor that is differentiable in the images. Its
    weight is ``synthesis.losses.NAME``: ``synthesize(..., set=["synthesis.losses.total_variation=0.1"])``.

    Raises:
        UsageError: a built-in loss, or another field of the metrics, has the same name.
    """
    return _added(function, IMAGE_LOSSES, BUILT_IN_LOSSES + BESIDE_LOSSES)


def weight_rounding(function: F) -> F:
    """Decorator: let recipes name ``function`` as a way to round weights.

    It takes an :class:`intraq_cli.RoundingInput` and returns integers:
    ``quantize(..., set=["quantization.weight_rounding=NAME"])``.

    Raises:
        UsageError: a built-in rounding has the same name.
    """
    return _added(function, WEIGHT_ROUNDINGS, ROUNDINGS)


def _added(function: F, table: dict[str, Extension], reserved: tuple[str, ...]) -> F:
    name = getattr(function, "__name__", "")
    if name in reserved or not name.isidentifier():
        raise UsageError(
            f"{name or function!r} cannot be the name of your function", f"use a name other than {', '.join(reserved)}"
        )
    file, sha256 = inspect.getsourcefile(function) or "", None
    if Path(file).is_file():
        sha256 = file_digest(Path(file))
    else:
        with suppress(OSError):  # a function in a notebook cell
            sha256 = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    table[name] = Extension(name, function, file, sha256)
    return function


def explained(error: BaseException, path: Path) -> str:
    """Describe an error in a user's file, with its line number."""
    files = (str(path), str(path.resolve()))
    where = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename in files), None)
    line = f", line {where.lineno}" if where else ""
    return f"{path}{line}: {type(error).__name__}: {first_line(error)}"
