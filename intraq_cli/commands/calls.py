"""Convert a command's options to the arguments of the API function of the same name, and back to typed words."""

import shlex
from typing import Any

TYPED: list[str] = []
"""The words after ``intraq`` of the current command."""

PRINTED = ("as_json", "quiet", "bits_template", "sort")
"""Parameters of commands that only control printing."""


def passed_on(given: dict[str, Any]) -> dict[str, Any]:
    """Convert a command's options to the arguments of the API function of the same name.

    Args:
        given: the command's ``locals()`` at its start.

    Returns:
        All options that were given or have a default, except those that only control printing.
    """
    options = {name.rstrip("_"): value for name, value in given.items() if name not in PRINTED}
    return {name: value for name, value in options.items() if value is not None}


def typed(*options: tuple[str, Any]) -> str:
    """Return options as a user would type them, without those that are None; an argument has the name ``""``."""
    words = ((name, _spelled(value)) for name, value in options if value is not None)
    return shlex.join(word for pair in words for word in pair if word)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
