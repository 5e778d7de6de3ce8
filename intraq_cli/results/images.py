"""What is made of synthetic images, and found in them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Foretold:
    """What a job is expected to take, by a dry run."""

    seconds: float
    """Of all: more than its stages together."""
    stages: dict[str, float]
    """Seconds of each."""
    memory_bytes: int | None
    """The most at any time: of a GPU where the job runs on one; None: not known."""


@dataclass(frozen=True)
class SynthesisResult:
    """What ``synthesize`` made; shares are in percent."""

    path: str
    model: str
    n: int
    image_shape: tuple[int, int, int]
    seconds: float
    losses: dict[str, float]
    teacher_accuracy: float
    heterogeneity: float
    seed: int
    device: str
    dry_run: bool = False
    foretold: Foretold | None = None
    """By a dry run; None where there is nothing to tell it by."""
    png: str | None = None
    """The folder with the images as pictures, where that was asked for."""


@dataclass(frozen=True)
class ClassCount:
    """So many images of a class."""

    index: int
    name: str
    n: int


@dataclass(frozen=True)
class ImagesResult:
    """What ``images`` found in a file; shares are in percent."""

    path: str
    n: int
    """Of the classes that were asked for."""
    image_shape: tuple[int, int, int]
    bytes: int
    """Of the file."""
    classes: list[ClassCount]
    """That occur, or that were asked for."""
    model: str
    """The float network that the images were made from."""
    sha256: str | None
    """Of its weights."""
    seed: int | None
    recipe: dict[str, Any]
    """Its section about synthesis, in full."""
    code: list[dict[str, str]]
    """The user's own functions that the images were made with: name, and SHA-256 of the file."""
    losses: dict[str, float]
    """This and what follows, but for the confidence, is of all images in the file."""
    teacher_accuracy: float
    confidence: float | None
    """Mean probability that the float network gives the classes that the images were made for."""
    heterogeneity: float
    n_file: int
    """Images in the file."""
    png: str | None = None
    """What was written: a folder of class folders."""
    sheet: str | None = None
    """What was written: a contact sheet."""
