"""Results of measuring: accuracy, predictions, comparisons."""

from dataclasses import dataclass
from typing import Any

from intraq_cli.results.checkpoints import Failure


@dataclass(frozen=True)
class EvaluationResult:
    """Result of ``evaluate`` for a target and its float teacher; accuracies and agreement in percent."""

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
    """Path of the run.json in which the result was recorded, if requested."""


@dataclass(frozen=True)
class EvaluationsResult:
    """Result of ``evaluate_many``."""

    results: list[EvaluationResult]
    failed: list[Failure]


@dataclass(frozen=True)
class PredictionResult:
    """Prediction of ``predict`` for one picture."""

    image: str
    classes: list[int]
    """Indices of the five most probable classes, most probable first."""
    names: list[str]
    probabilities: list[float]
    """Probabilities of these classes, in percent."""


@dataclass(frozen=True)
class ComparedCheckpoint:
    """One of the checkpoints that ``compare`` compared; shares are in percent, and None means unknown."""

    path: str
    name: str
    """Name of the folder, with a number if earlier ones have the same name."""
    model: str | None
    w_bits: int | None
    a_bits: int | None
    mixed_bits: bool
    """Whether bits differ between layers; ``w_bits`` and ``a_bits`` are then those of most layers."""
    act_placement: str | None
    recipe: str
    seed: int
    bytes_float: int
    bytes_quantized: int
    low_bit_share: float | None
    """Share of the multiply-adds whose two factors are both quantized."""
    agreement: float | None
    kl: float | None
    held_out: int | None
    ms_float: float | None
    """Milliseconds for a batch of the float network, as recorded by the export."""
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
    """Result of ``compare``."""

    checkpoints: list[ComparedCheckpoint]
    same_model: bool
    """Whether all were made from the same float weights."""
    noise: list[ComparedNoise]
    """One row for each batch norm that at least two checkpoints have, in the order of the network."""
