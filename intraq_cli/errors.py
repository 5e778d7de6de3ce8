"""Errors that the user can act on. Any other exception is a bug and keeps its traceback.

IntraqError                 exit 1: one line and a hint
├── UsageError              exit 2: an argument is wrong in itself
├── ModelError              no such model, cannot be fetched, cannot be quantized
├── RecipeError             no such recipe, unknown key, value out of range
├── DataError               images, class folders, image files
├── CheckpointError         a folder that is not a checkpoint, or a damaged checkpoint
├── ExportError             a missing package, a file that no runtime accepts, layers left in float
├── BudgetError             too few bytes, bits or bit operations for any choice of bits
├── OutputError             the output folder exists, cannot be written, disk full
├── HubError                an upload that the Hub refuses, that fails, or that cannot reach the Hub
├── DeviceError             no such device, out of memory, another process of the job is gone
└── DivergedError           losses that stay infinite or NaN
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from intraq_cli.words import one_line


class IntraqError(Exception):
    """An error caused by the user's input or environment.

    Args:
        message: one line: what is wrong.
        hint: one line: what to do next.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = one_line(message), one_line(hint)
        super().__init__(self.message)


class UsageError(IntraqError):
    """An argument is wrong in itself, independent of any file or network."""

    code = "usage"
    exit_code = 2


class ModelError(IntraqError):
    """The model is unknown, cannot be loaded, or is of a kind that cannot be quantized."""

    code = "model"


class RecipeError(IntraqError):
    """The recipe is unknown, or has an unknown key or a value out of range."""

    code = "recipe"


class DataError(IntraqError):
    """Images or labels are missing, unreadable, or do not fit the model."""

    code = "data"


NO_CHECKPOINT = "give a folder that `intraq quantize` wrote"
"""Hint for a folder that is not a checkpoint."""
CHECK_DISK = "check the folder's permissions and the free disk space"
"""Hint for a path that cannot be written."""
GET_AGAIN = "download or create it again"
"""Hint for a damaged file or folder."""
MAKE_AGAIN = "make the checkpoint again with `intraq quantize`"
"""Hint for a checkpoint that lacks something."""


class CheckpointError(IntraqError):
    """The folder is not a checkpoint, or the checkpoint is damaged."""

    code = "checkpoint"


class ExportError(IntraqError):
    """An export cannot be made, or does not meet the request."""

    code = "export"


class BudgetError(IntraqError):
    """No choice of bits stays within the budget."""

    code = "budget"


class OutputError(IntraqError):
    """The output cannot be written, or would overwrite something."""

    code = "output"


class DeviceError(IntraqError):
    """The device does not exist, or has too little memory."""

    code = "device"


class DivergedError(IntraqError):
    """Losses are not finite, even after all retries."""

    code = "diverged"


class HubError(IntraqError):
    """An upload to the Hub failed.

    Args:
        message: one line: what is wrong.
        hint: one line: what to do next.
        code: ``hub``, or more specifically ``hub-token``, ``hub-forbidden``, ``hub-missing``, ``hub-conflict``,
            ``hub-busy`` or ``hub-unreachable``.
    """

    code = "hub"

    def __init__(self, message: str, hint: str = "", code: str = "hub") -> None:
        super().__init__(message, hint)
        self.code = code


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()  # without colour codes
    return lines[0] if lines else type(error).__name__


def interruption(error: BaseException | None) -> BaseException | None:
    """Return the interruption (Ctrl-C, SIGTERM) that ``error`` is a consequence of, or None.

    A signal can arrive in the middle of a library call; the library's cleanup may then fail with another error.
    """
    while isinstance(error, Exception):
        error = error.__context__
    return error


class NotFiniteError(ArithmeticError):
    """Losses that are NaN or infinite. Callers that can retry with gentler settings catch it."""


class CollapsedError(ArithmeticError):
    """Tuning ended in a network no better than chance. Callers that can retry with gentler settings catch it."""


def check_finite(losses: Mapping[str, float]) -> None:
    """Check that all losses are finite.

    Raises:
        NotFiniteError: one is not; the message gives its name and value.
    """
    wrong = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise NotFiniteError(", ".join(wrong))


def check_unused(why: str, **options: Any) -> None:
    """Refuse options that were given but would have no effect.

    Raises:
        UsageError: an option was given; the message names the options and states ``why``.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: {why}", f"leave {'it' if len(given) == 1 else 'them'} out")


def check_positive(option: str, number: int | None) -> None:
    """Refuse a count below one.

    Raises:
        UsageError: ``number`` is below one.
    """
    if number is not None and number < 1:
        raise UsageError(f"{option} {number}: must be at least 1")
