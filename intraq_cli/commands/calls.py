"""From a command's options to the function of its name, and back to what one would type."""

import shlex
from typing import Any

TYPED: list[str] = []
"""The words behind ``intraq`` of the command that runs."""

PRINTED = ("as_json", "quiet", "bits_template", "sort")
"""Parameters of commands that only say how to print."""


def passed_on(given: dict[str, Any]) -> dict[str, Any]:
    """A command's options as the function of its name takes them.

    Args:
        given: the command's ``locals()`` as it begins.

    Returns:
        What was given, or has a default, but for the options that only say how to print.
    """
    options = {name.rstrip("_"): value for name, value in given.items() if name not in PRINTED}
    return {name: value for name, value in options.items() if value is not None}


def data_for(model: str) -> str:
    """What to suggest to measure a model on."""
    return "digits" if model == "resnet20_digits" else "FOLDER"


def typed(*options: tuple[str, Any]) -> str:
    """Options as one would type them, those that were not given left out; an argument has the name ``""``."""
    words = ((name, _spelled(value)) for name, value in options if value is not None)
    return shlex.join(word for pair in words for word in pair if word)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
