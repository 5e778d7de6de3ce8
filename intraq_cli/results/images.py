"""Results about synthetic images, and the estimate of a dry run."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Forecast:
    """Time and memory that a dry run expects a job to take."""

    seconds: float
    """Seconds for the whole job, which is more than the sum of its stages."""
    stages: dict[str, float]
    """Seconds for each stage."""
    memory_bytes: int | None
    """Peak memory, of the GPU if the job runs on one; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """What ``synthesize`` made; shares are in percent."""

    path: str
    model: str
    n: int
    """Number of images."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    teacher_accuracy: float = math.nan
    """Share of the images that the float network assigns to the class they were made for."""
    heterogeneity: float = math.nan
    seed: int
    device: str
    dry_run: bool = False
    forecast: Forecast | None = None
    """Time and memory that a dry run expects; None if they cannot be estimated."""
    png: str | None = None
    """The folder with the images as PNG files, if requested."""


@dataclass(frozen=True)
class ClassCount:
    """Number of images of a class."""

    index: int
    name: str
    n: int


@dataclass(frozen=True)
class ImagesResult:
    """What ``images`` found in a file; shares are in percent."""

    path: str
    n: int
    """Number of images of the requested classes."""
    image_shape: tuple[int, int, int]
    bytes: int
    """Size of the file."""
    classes: list[ClassCount]
    """All classes in the file, or the requested ones."""
    model: str
    """The float network that the images were made from."""
    sha256: str | None
    """SHA-256 of the float network's weights."""
    seed: int | None
    recipe: dict[str, Any]
    """The complete ``synthesis`` section of the recipe."""
    code: list[dict[str, str]]
    """The user's own losses that were used to make the images: name, and SHA-256 of the file."""
    losses: dict[str, float]
    """Losses over all images in the file; so are the accuracy and the heterogeneity below."""
    teacher_accuracy: float
    confidence: float | None
    """Mean probability that the float network assigns to the classes that the images were made for."""
    heterogeneity: float
    n_file: int
    """Number of images in the file."""
    png: str | None = None
    """Folder of class folders with the images as PNG files, if requested."""
    sheet: str | None = None
    """Path of the contact sheet, if requested."""
