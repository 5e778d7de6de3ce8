"""What a user can do something about. Anything else that is raised is a bug and keeps its traceback.

IntraqError                 exit 1: one line and a hint
├── UsageError              exit 2: an argument is wrong in itself
├── ModelError              no such model, cannot be fetched, cannot be quantized
├── RecipeError             no such recipe, unknown key, value out of range
├── DataError               images, class folders, image files
├── CheckpointError         a folder that is no checkpoint, or a damaged one
├── ExportError             a package that is missing, a file that no runtime takes, layers left in float
├── BudgetError             too few bytes, bits or bit operations for any choice of bits
├── OutputError             the output folder exists, cannot be written, disk full
├── HubError                the Hub refuses, fails or cannot be reached while it is written to
├── DeviceError             no such device, out of memory, another process of the job gone
└── DivergedError           losses that stay infinite or NaN
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from intraq_cli.words import one_line


class IntraqError(Exception):
    """An error of the user's making or of their surroundings.

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
    """An argument is wrong in itself, whatever the files and the network say."""

    code = "usage"
    exit_code = 2


class ModelError(IntraqError):
    """The model is unknown, cannot be had, or is of a kind that cannot be quantized."""

    code = "model"


class RecipeError(IntraqError):
    """The recipe is unknown, has an unknown key, or a value out of range."""

    code = "recipe"


class DataError(IntraqError):
    """Images or labels are missing, unreadable, or do not fit the model."""

    code = "data"


NO_CHECKPOINT = "a checkpoint folder is what `intraq quantize` writes"
"""What helps where a folder is none."""


NO_CHECKPOINT = "a checkpoint folder is what `intraq quantize` writes"
"""What helps where a folder is none."""


class CheckpointError(IntraqError):
    """The folder is no checkpoint, or a damaged one."""

    code = "checkpoint"


class ExportError(IntraqError):
    """An export cannot be made, or is not what was asked for."""

    code = "export"


class BudgetError(IntraqError):
    """No choice of bits stays within the budget."""

    code = "budget"


class OutputError(IntraqError):
    """The output cannot be written, or would overwrite something."""

    code = "output"


class DeviceError(IntraqError):
    """The device is not there, or has too little memory."""

    code = "device"


class DivergedError(IntraqError):
    """Losses are not finite, whatever is tried."""

    code = "diverged"


class HubError(IntraqError):
    """What is sent to the Hub does not arrive.

    Args:
        message: one line: what is wrong.
        hint: one line: what to do next.
        code: ``hub``, or more exactly ``hub-token``, ``hub-forbidden``, ``hub-missing``, ``hub-conflict``,
            ``hub-busy`` or ``hub-unreachable``.
    """

    code = "hub"

    def __init__(self, message: str, hint: str = "", code: str = "hub") -> None:
        super().__init__(message, hint)
        self.code = code


def first_line(error: BaseException) -> str:
    """What an error says first; its name if it says nothing."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()  # colours
    return lines[0] if lines else type(error).__name__


def interruption(error: BaseException | None) -> BaseException | None:
    """What has stopped the work (Ctrl-C, SIGTERM), if ``error`` only came up in its wake.

    A signal can arrive while a library is in the midst of things; what it has to undo may then fail.
    """
    while isinstance(error, Exception):
        error = error.__context__
    return error


class NotFiniteError(ArithmeticError):
    """Losses that are NaN or infinite; whoever tries again more gently catches it."""


class CollapsedError(ArithmeticError):
    """Tuning has left a network no better than one that knows nothing; whoever tries again more gently catches it."""


def check_finite(losses: Mapping[str, float]) -> None:
    """See that all are finite.

    Raises:
        NotFiniteError: one is not; it says which, and what it is.
    """
    wrong = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise NotFiniteError(", ".join(wrong))


def check_unused(why: str, **options: Any) -> None:
    """Refuse options that were given and would do nothing.

    Raises:
        UsageError: it names them, and says ``why``.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: {why}", f"leave {'it' if len(given) == 1 else 'them'} out")


def check_positive(option: str, number: int | None) -> None:
    """Refuse a number of things that is less than one.

    Raises:
        UsageError: it is.
    """
    if number is not None and number < 1:
        raise UsageError(f"{option} {number}: must be at least 1")
