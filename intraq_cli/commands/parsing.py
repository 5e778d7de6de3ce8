"""Values of options that are more than one word or number."""

from collections.abc import Callable
from typing import Any

from intraq_cli.errors import UsageError


def numbers(option: str, kind: type, count: int | None = None) -> Callable[[str], tuple[Any, ...]]:
    """A parser of ``1,2,3``."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or (count is not None and len(values) != count):
            raise UsageError(f"{option} {text}: must be numbers with commas between", "e.g. --input-size 3,224,224")
        return values

    return parse


def bits(option: str) -> Callable[[str], int | tuple[int, ...]]:
    """A parser of ``4``, ``2-8`` and ``2,4,8``."""

    def parse(text: str) -> int | tuple[int, ...]:
        first, dash, last = text.partition("-")
        parts = [first, last] if dash else text.split(",")
        if not all(part.isdecimal() and len(part) < 3 for part in parts):
            raise UsageError(
                f"{option} {text}: must be bits from 2 to 8", f"e.g. {option} 4; under a budget {option} 2-8"
            )
        found = [int(part) for part in parts]
        if dash:
            found = list(range(found[0], found[1] + 1))
        return found[0] if len(found) == 1 else tuple(found)

    return parse


def micro_batch(text: str) -> int | None:
    """Parse ``N`` or ``auto``."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text}: must be auto or a whole number from 1")
    return int(text)
