"""Figures as people read them, a dash where there is none; and texts that fit into a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

NONE = "-"
LONGEST = 1000
"""Characters of a line."""
SOME = 3
"""Of many things, those that a line names."""


def file_size(count: float) -> str:
    """A number of bytes with its unit: ``1.25 MB``."""
    unit, name = byte_unit(count)
    return f"{count / unit:.{2 if name == 'MB' else 1}f} {name}"


def byte_unit(largest: float) -> tuple[float, str]:
    """What numbers of bytes up to ``largest`` are best told in: how many bytes that is, and its name."""
    return (1e6, "MB") if largest >= 1e6 else (1e3, "kB")


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 thread``, ``2 threads``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def logits_differ(largest: float) -> str:
    """How far the logits of two networks are apart, by the largest difference in units of their spread."""
    return f"differ by at most {largest:.2g} of their spread" if largest else "are the very same"


def duration(seconds: float | None) -> str:
    """Seconds as ``9.5 s``, ``12 min`` or ``2.1 h``."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.{int(seconds < 10)}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def decimals(value: float | None, digits: int) -> str:
    """So many digits behind the point."""
    return NONE if value is None else f"{value:,.{digits}f}"


def ratio(before: float, after: float) -> str:
    """How many times smaller, or larger."""
    if not before or not after:
        return NONE
    return f"{before / after:.1f} times smaller" if before >= after else f"{after / before:.1f} times larger"


def sizes(before: float, after: float) -> str:
    """Bytes of a float network and of the quantized one."""
    return f"{file_size(before)} -> {file_size(after)} ({ratio(before, after)})"


def data_of(pictures: int) -> str:
    """What a network was quantized with, where so many of the images are pictures that somebody gave."""
    return f"{counted(pictures, 'picture')} and no labels" if pictures else "no training data"


def images_of(pictures: int) -> str:
    """What a network was tuned on, where so many of the images are pictures that somebody gave."""
    return "images" if pictures else "synthetic images"


def held_out_images(number: int, pictures: int) -> str:
    """How many of them were held out: ``1 held-out synthetic image``."""
    return counted(number, "held-out image" if pictures else "held-out synthetic image")


def widths(w_bits: int, a_bits: int, mixed: bool) -> str:
    """Bits of weights and activations; ``mixed``: those of most layers alone."""
    return f"{'mostly ' if mixed else ''}W{w_bits}A{a_bits}"


def told_bits(call_bits: Sequence[int | None], otherwise: int | None) -> str:
    """Bits of what the calls of a layer read: ``4``, or ``4/float`` where they differ; ``otherwise``: if not noted."""
    return "/".join(dict.fromkeys(str(bits or "float") for bits in call_bits or [otherwise]))


def one_line(text: str) -> str:
    """``text`` fit for a terminal and a log: names in it may be a stranger's, with line breaks and escape codes."""
    return cut(" ".join("".join(c if c.isprintable() else " " for c in text).split()), LONGEST)


def cut(text: str, most: int) -> str:
    """``text``, or its beginning where it has more than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def short(value: Any) -> str:
    """A value as a message shows it: of a table or a list how long it is, of the rest the beginning."""
    if isinstance(value, (dict, list)):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    # a whole number of thousands of digits cannot even be written
    text = f"a number of {value.bit_length()} bits" if type(value) is int and abs(value) > 2**63 else repr(value)
    return cut(text, 80)


def some_of(texts: Sequence[str]) -> str:
    """The first of many, for a line."""
    return "; ".join(texts[:SOME]) + ("; ..." if len(texts) > SOME else "")


def spelled_path(path: Path) -> str:
    """A path as commands take it again: one that begins with a dash is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint naming the closest known words, or nothing."""
    from difflib import get_close_matches  # here, for a quick start

    close = get_close_matches(word[:100], known, n=3)
    return "did you mean " + " or ".join(close) + "?" if close else ""
