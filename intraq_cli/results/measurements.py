"""Results of measuring: accuracy, predictions, comparisons."""

from dataclasses import dataclass
from typing import Any

from intraq_cli.results.checkpoints import Failure


@dataclass(frozen=True)
class EvaluationResult:
    """What ``evaluate`` measured of a target, beside its float teacher; accuracies and agreement in percent."""

    target: str
    data: str
    n: int
    """Number of images."""
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    agreement: float
    """Share of images with the float teacher's top-1 prediction."""
    seconds: float
    device: str
    saved: str | None = None
    """Path of the run.json that the figures were noted in, where that was asked for."""


@dataclass(frozen=True)
class EvaluationsResult:
    """What ``evaluate_many`` found."""

    results: list[EvaluationResult]
    failed: list[Failure]


@dataclass(frozen=True)
class PredictionResult:
    """What ``predict`` found in one picture."""

    image: str
    classes: list[int]
    """Indices of the five most probable classes, the most probable one first."""
    names: list[str]
    probabilities: list[float]
    """Probabilities of these classes, in percent."""


@dataclass(frozen=True)
class ComparedCheckpoint:
    """One of those that ``compare`` looked at; shares are in percent, and None is what is not known."""

    path: str
    name: str
    """Name of the folder, made to differ from the others'."""
    model: str | None
    w_bits: int | None
    a_bits: int | None
    mixed_bits: bool
    """Whether bits differ between layers; ``w_bits`` and ``a_bits`` are then those of most."""
    act_placement: str | None
    recipe: str
    seed: int
    bytes_float: int
    bytes_quantized: int
    low_bit_share: float | None
    """Share of the multiply-adds of which both factors are quantized."""
    agreement: float | None
    kl: float | None
    held_out: int | None
    ms_float: float | None
    """Milliseconds a batch of the float network, as the export noted it."""
    ms_quantized: float | None
    seconds: float | None
    evaluations: list[dict[str, Any]]


@dataclass(frozen=True)
class ComparedNoise:
    """Signal-to-quantization-noise ratio of one batch norm's output, in dB."""

    name: str
    values: list[float | None]
    """One value for each checkpoint; None where it was not measured."""
    spread: float
    """Largest minus smallest value, in dB."""


@dataclass(frozen=True)
class ComparisonResult:
    """What ``compare`` found."""

    checkpoints: list[ComparedCheckpoint]
    same_model: bool
    """Whether all were made from the same float weights."""
    noise: list[ComparedNoise]
    """One row for each batch norm that at least two checkpoints have, in the order of the network."""
