"""What is measured."""

from dataclasses import dataclass
from typing import Any

from intraq_cli.results.checkpoints import Failure


@dataclass(frozen=True)
class EvaluationResult:
    """Accuracies in percent."""

    target: str
    data: str
    n: int
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    agreement: float
    seconds: float
    device: str
    saved: str | None = None
    """The manifest that the figures were noted in."""


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
    """The first five, the most probable one first."""
    names: list[str]
    probabilities: list[float]
    """Percent."""


@dataclass(frozen=True)
class ComparedCheckpoint:
    """One of those that ``compare`` looked at; shares are in percent, and None is what is not known."""

    path: str
    name: str
    """Of the folder, made to differ from the others'."""
    model: str | None
    w_bits: int | None
    a_bits: int | None
    mixed_bits: bool
    """Whether weights have other bits here than there: then these are those of most."""
    act_placement: str | None
    recipe: str
    seed: int
    bytes_float: int
    bytes_quantized: int
    low_bit_share: float | None
    """Of the multiply-adds."""
    agreement: float | None
    kl: float | None
    held_out: int | None
    ms_float: float | None
    """Of a batch, as its export noted it."""
    ms_quantized: float | None
    seconds: float | None
    evaluations: list[dict[str, Any]]


@dataclass(frozen=True)
class ComparedNoise:
    """Signal to quantization noise behind one batch norm, in dB."""

    name: str
    values: list[float | None]
    """Of each checkpoint."""
    spread: float
    """Between the largest and the smallest."""


@dataclass(frozen=True)
class ComparisonResult:
    """What ``compare`` found."""

    checkpoints: list[ComparedCheckpoint]
    same_model: bool
    """Whether all were made from the same float weights."""
    noise: list[ComparedNoise]
    """Of batch norms that at least two have, in the order of the network."""
