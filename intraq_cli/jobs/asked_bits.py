"""The requested bits: widths, a budget, rules per layer, and sensitivities that were measured before."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from intraq_cli.errors import UsageError
from intraq_cli.jobs.sensitivities import read_sensitivity
from intraq_cli.quantization.bit_rules import NO_RULES, BitRules, read_bit_rules
from intraq_cli.quantization.budget import Budget
from intraq_cli.results import SensitivityResult

DEFAULT_BITS = 4
"""Bits of weights and of activations if there is no budget."""
ALL_WIDTHS = tuple(range(2, 9))
"""Bits to choose from if none are given."""
UNLIMITED_A_BITS = 8
"""Bits of activations if none are given and the budget does not limit them: they take no bytes in a file."""


@dataclass(frozen=True)
class AskedBits:
    """The requested bits, before the network is known."""

    w: tuple[int, ...]
    """Widths of weights, ascending; exactly one without a budget."""
    a: tuple[int, ...]
    """Widths of activations, in the same form."""
    budget: Budget | None = None
    first_last_bits: int | None = None
    """Bits of the first and the last layer; the budget does not change them."""
    rules: BitRules = NO_RULES
    """Bits of layers by name; the budget does not change them."""
    sensitivities: SensitivityResult | None = None
    """Sensitivities that were measured before, on which the choice is based."""

    @property
    def label(self) -> str:
        """Part of the folder's default name: ``w4a4``, ``2MB-a8``."""
        if self.budget is None:
            return f"w{self.w[0]}a{self.a[0]}"
        unit = {"bytes": "", "bits": "bits", "bit operations": "bops"}[self.budget.kind]
        return f"{self.budget.said}{unit}" + (f"-a{self.a[0]}" if len(self.a) == 1 else "")


def asked_bits(
    w: int | Sequence[int] | None,
    a: int | Sequence[int] | None,
    budget: Budget | None = None,
    first_last_bits: int | None = None,
    bits: str | Path | None = None,
    sensitivity: str | Path | None = None,
) -> AskedBits:
    """Read the requested bits, and check that the options are compatible.

    Args:
        w: bits of weights: one, or several under a budget; default under a budget: the widths in ``sensitivity``, or
            all.
        a: bits of activations: one, or several under a budget of bit operations.
        budget: limit for the choice of bits.
        first_last_bits: bits of the first and the last layer.
        bits: a TOML file with bits of layers by their names.
        sensitivity: a file with sensitivities that were measured before.

    Raises:
        UsageError: bits outside 2 to 8, no bits, or several bits without a budget to choose by.
        RecipeError: ``bits`` cannot be read.
        DataError: ``sensitivity`` cannot be read.
    """
    check_width("--first-last-bits", first_last_bits)
    if sensitivity is not None and budget is None:
        raise UsageError("--sensitivity needs a budget to choose bits for", "add --target-size, --avg-bits or --bops")
    measured_before = None if sensitivity is None else read_sensitivity(Path(sensitivity))
    if measured_before is not None and budget is not None:
        w = tuple(measured_before.widths) if w is None else w
        a = tuple(measured_before.widths) if a is None and budget.kind == "bit operations" else a
    asked = _widths(w, a, budget)
    return replace(asked, first_last_bits=first_last_bits, rules=read_bit_rules(bits), sensitivities=measured_before)


def _widths(w: int | Sequence[int] | None, a: int | Sequence[int] | None, budget: Budget | None) -> AskedBits:
    given = {"--w": w, "--a": a}
    found = {name: asked_widths(name, [x] if isinstance(x, int) else x) for name, x in given.items() if x is not None}
    several = [name for name, widths in found.items() if len(widths) > 1]
    if several and budget is None:
        raise UsageError(
            f"{several[0]}: several widths need a budget", "give one width, or add --target-size, --avg-bits or --bops"
        )
    if "--a" in several and budget is not None and budget.kind != "bit operations":
        raise UsageError(
            "--a: several widths, but only a budget in bit operations limits activations",
            "give one width, or use --bops",
        )
    if budget is None:
        return AskedBits(found.get("--w", (DEFAULT_BITS,)), found.get("--a", (DEFAULT_BITS,)))
    inputs = ALL_WIDTHS if budget.kind == "bit operations" else (UNLIMITED_A_BITS,)
    return AskedBits(found.get("--w", ALL_WIDTHS), found.get("--a", inputs), budget)


def check_width(option: str, bits: int | None) -> None:
    """Refuse a width that is not 2 to 8 bits.

    Raises:
        UsageError: it is not.
    """
    if bits is not None and not 2 <= bits <= 8:
        raise UsageError(f"{option} {bits}: must be from 2 to 8 bits")


def asked_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return the bits in ascending order, without duplicates.

    Raises:
        UsageError: there are none, or some are not 2 to 8.
    """
    if not widths:
        raise UsageError(f"{name}: no bits given", f"e.g. {name} 2,4,8")
    for bits in widths:
        check_width(name, bits)
    return tuple(sorted({*widths}))
