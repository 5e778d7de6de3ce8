"""Parse option values that are more than one word or number."""

import re
from collections.abc import Callable
from typing import Any

from intraq_cli.errors import UsageError

PYDANTIC = (
    (r"^Value error, ", ""),
    (r"^Input should be a valid integer.*", "must be a whole number"),
    (r"^Input should be a valid number.*", "must be a number"),
    (r"^Input should be greater than or equal to", "must be at least"),
    (r"^Input should be less than or equal to", "must be at most"),
    (r"^Input should be", "must be"),
)


def numbers(example: str, kind: type, count: int | None = None) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser of ``1,2,3``.

    Args:
        example: the option with a value, as a user would type it.
        kind: type of the numbers.
        count: number of values; None: one or more.
    """
    option = example.split()[0]
    what = "whole numbers" if kind is int else "numbers"

    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or (count is not None and len(values) != count):
            many = "" if count is None else f"{count} "
            raise UsageError(f"{option} {text}: must be {many}{what} separated by commas", f"e.g. {example}")
        return values

    return parse


def bits(option: str) -> Callable[[str], int | tuple[int, ...]]:
    """Return a parser of ``4``, ``2-8`` and ``2,4,8``."""

    def parse(text: str) -> int | tuple[int, ...]:
        first, dash, last = text.partition("-")
        parts = [first, last] if dash else text.split(",")
        if not all(part.isdecimal() and len(part) < 3 for part in parts):
            raise UsageError(
                f"{option} {text}: must be from 2 to 8 bits", f"e.g. {option} 4; with a budget, {option} 2-8"
            )
        found = [int(part) for part in parts]
        if dash:
            found = list(range(found[0], found[1] + 1))
        return found[0] if len(found) == 1 else tuple(found)

    return parse


def readable(message: str) -> str:
    """Reword an error message about an option's value from pydantic, which typer passes on."""
    for pattern, words in PYDANTIC:
        message = re.sub(pattern, words, message)
    return message
