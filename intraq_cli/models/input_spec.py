"""The input that a network expects."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_cli.choices import LARGEST_SIZE, is_too_large
from intraq_cli.errors import ModelError


@dataclass(frozen=True)
class InputSpec:
    """The input that a network expects; the fields are keys of timm's ``pretrained_cfg``."""

    input_size: tuple[int, int, int]
    """(C, H, W)."""
    mean: tuple[float, ...]
    """Per channel, for pixels in [0, 1]."""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        c = self.input_size[0]
        if is_too_large(self.input_size):
            raise ModelError(f"an input of {self.size} is too large", f"use {LARGEST_SIZE}")
        if len(self.mean) != c or len(self.std) != c:
            raise ModelError(
                f"{c} input channels, but {len(self.mean)} means and {len(self.std)} standard deviations",
                "give --mean and --std one number per channel",
            )
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if min(self.input_size) < 1 or not finite or not all(s > 0 for s in self.std):
            raise ModelError("input sizes and standard deviations must be positive, and all numbers finite")

    @property
    def size(self) -> str:
        """``C,H,W``, the format of ``--input-size``."""
        return ",".join(map(str, self.input_size))

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Normalised values of a black and of a white pixel, ``(C,)`` each."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (0 - mean) / std, (1 - mean) / std

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Normalise pixels in [0, 1], ``(..., C, H, W)``."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return (pixels - mean) / std

    def to_pixels(self, images: Tensor) -> Tensor:
        """Convert normalised images ``(B, C, H, W)`` back to pixels, clipped to [0, 1]."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return (images * std + mean).clamp(0, 1)
