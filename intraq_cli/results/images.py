"""Results about synthetic images, and what a dry run expects."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Foretold:
    """What a job is expected to take, by a dry run."""

    seconds: float
    """Seconds of the whole job: more than its stages together."""
    stages: dict[str, float]
    """Seconds of each stage."""
    memory_bytes: int | None
    """Largest memory at any time, of the GPU if the job runs on one; None: not known."""


@dataclass(frozen=True)
class SynthesisResult:
    """What ``synthesize`` made; shares are in percent."""

    path: str
    model: str
    n: int
    """Number of images."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    seconds: float
    losses: dict[str, float]
    teacher_accuracy: float
    """Share of the images that the float network puts into the class they were made for."""
    heterogeneity: float
    seed: int
    device: str
    dry_run: bool = False
    foretold: Foretold | None = None
    """What a dry run expects of time and memory; None where there is nothing to tell it by."""
    png: str | None = None
    """The folder with the images as pictures, where that was asked for."""


@dataclass(frozen=True)
class ClassCount:
    """How many images there are of a class."""

    index: int
    name: str
    n: int


@dataclass(frozen=True)
class ImagesResult:
    """What ``images`` found in a file; shares are in percent."""

    path: str
    n: int
    """Number of images of the classes that were asked for."""
    image_shape: tuple[int, int, int]
    bytes: int
    """Size of the file."""
    classes: list[ClassCount]
    """Classes that occur, or that were asked for."""
    model: str
    """The float network that the images were made from."""
    sha256: str | None
    """SHA-256 of the float network's weights."""
    seed: int | None
    recipe: dict[str, Any]
    """The recipe's section about synthesis, in full."""
    code: list[dict[str, str]]
    """The user's own losses that the images were made with: name, and SHA-256 of the file."""
    losses: dict[str, float]
    """Losses of all images in the file, as are the accuracy and the heterogeneity below."""
    teacher_accuracy: float
    confidence: float | None
    """Mean probability that the float network gives the classes that the images were made for."""
    heterogeneity: float
    n_file: int
    """Number of images in the file."""
    png: str | None = None
    """Folder of class folders with the images as PNG files, where that was asked for."""
    sheet: str | None = None
    """Contact sheet, where that was asked for."""
