"""Bits of single layers, by patterns of layer names, from a TOML file written by hand.

    [weights]
    "*" = 4
    "blocks.0.*" = 8

    [activations]        # a layer's input
    "classifier" = 8

Patterns are shell patterns (``*``, ``?``, ``[...]``); if several match a layer, the last one counts.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from intraq_cli.errors import ModelError, RecipeError
from intraq_cli.io.untrusted import read_text

TABLES = ("weights", "activations")
LARGEST_FILE = 2**20


@dataclass(frozen=True)
class BitRules:
    """Pattern to bits, in the order of the file."""

    weights: dict[str, int] = field(default_factory=dict)
    activations: dict[str, int] = field(default_factory=dict)

    def weight_bits(self, layer: str, otherwise: int) -> int:
        """Return the bits of a layer's weight; ``otherwise`` if no pattern matches."""
        return _last(self.weights, layer, otherwise)

    def input_bits(self, layer: str, otherwise: int) -> int:
        """Return the bits of a layer's input; ``otherwise`` if no pattern matches."""
        return _last(self.activations, layer, otherwise)

    def check(self, layers: Sequence[str], readers: Sequence[str]) -> None:
        """Check that every pattern matches a layer.

        Args:
            layers: names of all layers.
            readers: names of the layers that read quantized values.

        Raises:
            ModelError: a pattern matches none.
        """
        for patterns, names, what in (
            (self.weights, layers, "no layer matches"),
            (self.activations, layers, "no layer matches"),
            (self.activations, readers, "in this placement, no layer that reads quantized values matches"),
        ):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    hint = f"choose from what `intraq inspect` lists: {', '.join(names[:3])}, ..."
                    raise ModelError(f"--bits: {what} {pattern!r}", hint)


NO_RULES = BitRules()


def read_bit_rules(file: str | Path | None) -> BitRules:
    """Read the rules in a file; without a file there are none.

    Raises:
        RecipeError: the file cannot be read, or contains anything but bits from 2 to 8.
    """
    if file is None:
        return NO_RULES
    path = Path(file)
    hint = "edit the file that `intraq inspect MODEL --bits-template` prints"
    try:
        found = tomllib.loads(read_text(path, LARGEST_FILE, RecipeError))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--bits {path} is not valid TOML: {error}", hint) from error
    for table, rules in found.items():
        if table not in TABLES or not isinstance(rules, dict):
            raise RecipeError(
                f"--bits {path}: {table} is not a table of bits", "use the tables [weights] and [activations]"
            )
        for pattern, bits in rules.items():
            if type(bits) is not int or not 2 <= bits <= 8:
                raise RecipeError(
                    f"--bits {path}: [{table}] gives {pattern!r} {bits!r} bits", "give a whole number from 2 to 8"
                )
    return BitRules(**found)


def template(weights: dict[str, int], inputs: dict[str, int]) -> str:
    """Return the text of a rules file that gives every layer its current bits; arguments map layer name to bits."""
    tables = zip(TABLES, (weights, inputs), strict=True)
    lines = (
        f"[{table}]\n" + "".join(f"{_quoted(name)} = {bits}\n" for name, bits in rules.items())
        for table, rules in tables
    )
    return "\n".join(lines)


def pattern_of(name: str) -> str:
    """Return the pattern that matches only a layer of this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _quoted(name: str) -> str:
    return '"' + pattern_of(name).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _last(rules: dict[str, int], layer: str, otherwise: int) -> int:
    matching = [bits for pattern, bits in rules.items() if fnmatchcase(layer, pattern)]
    return matching[-1] if matching else otherwise
