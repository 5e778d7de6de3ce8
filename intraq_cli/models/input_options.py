"""The user's options for a network's input. Imports nothing heavy, to keep ``intraq --help`` fast."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from intraq_cli.choices import LARGEST_SIZE, is_too_large
from intraq_cli.errors import IntraqError, ModelError, UsageError
from intraq_cli.words import counted

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
MIN_CROP_PCT, MAX_CROP_PCT = 0.5, 2.0
MIN_STD = 1e-6
"""Smallest standard deviation: with a smaller one, normalised pixels are too large for float32 networks."""
PIXEL_SCALE = 2.0
"""A mean or standard deviation above this cannot be for pixels in [0, 1], whose mean is at most 1."""


@dataclass(frozen=True)
class InputOverride:
    """``--input-size``, ``--mean``, ``--std``, ``--crop-pct``, ``--interpolation``; None: the model's own value."""

    input_size: tuple[int, int, int] | None = None
    """(C, H, W)."""
    mean: tuple[float, ...] | None = None
    """Per channel, for pixels in [0, 1]."""
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    """Side of the centre crop divided by the shorter side of the resized image."""
    interpolation: str | None = None

    @property
    def stated(self) -> dict[str, Any]:
        """The values that are not None, by name."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def check(self) -> None:
        """Refuse values that no network accepts.

        Raises:
            UsageError: sizes that are not positive or too large, values for pixels in [0, 255], a standard deviation
                below 1e-6, another number of values than channels, or an invalid crop or interpolation.
        """
        size = self.input_size
        if size is not None and (min(size) < 1 or is_too_large(size)):
            what = "too large" if min(size) >= 1 else "sizes must be at least 1"
            raise UsageError(f"--input-size {','.join(map(str, size))}: {what}", f"give C,H,W with {LARGEST_SIZE}")
        for name, values, least in (("--mean", self.mean, -math.inf), ("--std", self.std, MIN_STD)):
            if values is None:
                continue
            said = f"{name} {','.join(f'{value:g}' for value in values)}"
            if not all(math.isfinite(value) and value >= least for value in values):
                raise UsageError(f"{said}: must be finite numbers{f' of at least {least:g}' * (least > 0)}", "e.g. 0.5")
            if size is not None and len(values) != size[0]:
                raise UsageError(
                    f"{said}: --input-size C,H,W has {counted(size[0], 'channel')}", "give one number for each"
                )
        check_pixel_scale(self.mean, self.std, "", UsageError)
        if self.crop_pct is not None and not MIN_CROP_PCT <= self.crop_pct <= MAX_CROP_PCT:
            raise UsageError(
                f"--crop-pct {self.crop_pct:g}: must be from {MIN_CROP_PCT} to {MAX_CROP_PCT}", "e.g. 0.875"
            )
        known = get_args(Interpolation)
        if self.interpolation is not None and self.interpolation not in known:
            raise UsageError(f"--interpolation {self.interpolation}: no such method", f"choose from {', '.join(known)}")


def check_pixel_scale(mean: Any, std: Any, where: str, kind: type[IntraqError] = ModelError) -> None:
    """Refuse a mean and a standard deviation that are for pixels in [0, 255].

    Args:
        mean: per channel, or None.
        std: per channel, or None.
        where: where they are stated, for the message; empty for options.
        kind: class of the error to raise.

    Raises:
        IntraqError: of ``kind``; its hint gives the values for pixels in [0, 1].
    """
    stated = {name: values for name, values in (("mean", mean), ("std", std)) if values}
    if any(abs(value) > PIXEL_SCALE for values in stated.values() for value in values):
        scaled = [f"--{name} {','.join(f'{v / 255:.4g}' for v in values)}" for name, values in stated.items()]
        names = f"{where}: {' and '.join(stated)}" if where else " and ".join(f"--{name}" for name in stated)
        raise kind(f"{names} must be for pixels in [0, 1], not in [0, 255]", f"divide by 255: {' '.join(scaled)}")
