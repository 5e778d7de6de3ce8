"""Numbers formatted for people, with a dash for a missing one, and texts shortened to fit on a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NONE = "-"
LONGEST = 1000
"""Maximum number of characters in a line."""
SOME = 3
"""How many items of a long list a line names."""


def file_size(count: float) -> str:
    """Format a number of bytes with its unit: ``1.25 MB``."""
    unit, name = byte_unit(count)
    return f"{count / unit:.{2 if name == 'MB' else 1}f} {name}"


def byte_unit(largest: float) -> tuple[float, str]:
    """Return the best unit for numbers of bytes up to ``largest``: its size in bytes, and its name."""
    return (1e6, "MB") if largest >= 1e6 else (1e3, "kB")


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: ``1 thread``, ``2 threads``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def logits_differ(largest: float) -> str:
    """Describe how far apart the logits of two networks are, given the largest difference in units of their spread."""
    return f"differ by at most {largest:.2g} of their spread" if largest else "are identical"


def duration(seconds: float | None) -> str:
    """Format seconds as ``9.5 s``, ``12 min`` or ``2.1 h``."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.{int(seconds < 10)}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def stage_times(stages: Mapping[str, float | None]) -> str:
    """List the stages of a job, each with its time: ``synthesis 3.0 s, tuning 12 min``."""
    return ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())


def decimals(value: float | None, digits: int) -> str:
    """Format a value with ``digits`` decimal places."""
    return NONE if value is None else f"{value:,.{digits}f}"


def ratio(before: float, after: float) -> str:
    """Describe how many times smaller or larger a value became."""
    if not before or not after:
        return NONE
    return f"{before / after:.1f} times smaller" if before >= after else f"{after / before:.1f} times larger"


def sizes(before: float, after: float) -> str:
    """Describe the sizes in bytes of a float network and of the quantized one."""
    return f"{file_size(before)} -> {file_size(after)} ({ratio(before, after)})"


def sample_of(row: dict[str, Any]) -> str:
    """Tell random samples of the same data apart in a measurement: ``, seed 3``; empty if all images were used."""
    return f", seed {row['seed']}" if row.get("limit") else ""


def data_of(pictures: int) -> str:
    """Describe the data that a network was quantized with, given the number of pictures among the images."""
    return f"{counted(pictures, 'picture')} and no labels" if pictures else "no training data"


def images_of(pictures: int) -> str:
    """Describe the images that a network was tuned on, given the number of pictures among them."""
    return "images" if pictures else "synthetic images"


def held_out_images(number: int, pictures: int) -> str:
    """Describe the held-out images: ``1 held-out synthetic image``."""
    return counted(number, "held-out image" if pictures else "held-out synthetic image")


def widths(w_bits: int, a_bits: int, mixed: bool) -> str:
    """Describe the bits of weights and activations; ``mixed``: only most layers have them."""
    return f"{'mostly ' if mixed else ''}W{w_bits}A{a_bits}"


def told_bits(call_bits: Sequence[int | None], otherwise: int | None) -> str:
    """Describe the input bits of a layer's calls: ``4``, or ``4/float`` if they differ; ``otherwise`` if unrecorded."""
    return "/".join(dict.fromkeys(str(bits or "float") for bits in call_bits or [otherwise]))


def one_line(text: str) -> str:
    """Make ``text`` safe for a terminal and a log: untrusted names in it may hold line breaks and escape codes."""
    return cut(" ".join("".join(c if c.isprintable() else " " for c in text).split()), LONGEST)


def cut(text: str, most: int) -> str:
    """Shorten ``text`` to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def short(value: Any) -> str:
    """Format a value for a message: the length of a table or a list, the beginning of anything else."""
    if isinstance(value, (dict, list)):
        kind, part = ("table", "key") if isinstance(value, dict) else ("list", "item")
        return f"a {kind} of {counted(len(value), part)}"
    # Python refuses to convert an integer of thousands of digits to text
    text = f"a number of {value.bit_length()} bits" if type(value) is int and abs(value) > 2**63 else repr(value)
    return cut(text, 80)


def some_of(texts: Sequence[str]) -> str:
    """Join the first few of many texts into one line."""
    return "; ".join(texts[:SOME]) + ("; ..." if len(texts) > SOME else "")


def spelled_path(path: Path) -> str:
    """Return a path in the form that commands accept: one that begins with a dash must not look like an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint that names the closest known words, or an empty text."""
    from difflib import get_close_matches  # here, for a quick start

    close = get_close_matches(word[:100], known, n=3)
    return "did you mean " + " or ".join(close) + "?" if close else ""
