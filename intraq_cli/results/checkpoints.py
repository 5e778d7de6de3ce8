"""What is made, and where it goes."""

import math
from dataclasses import dataclass, field

from intraq_cli.results.images import Foretold


@dataclass(frozen=True)
class FrontierPoint:
    """What a budget buys."""

    bytes: int
    """Of ``model.safetensors``."""
    avg_bits: float
    """Of a quantized weight."""
    bit_operations: int
    """For one image."""
    divergence: float
    """Expected before tuning: the sum of what each layer does alone, as ``sensitivity`` measures it."""
    chosen: bool


@dataclass(frozen=True)
class ExportResult:
    """What ``export`` wrote, and what its proof found."""

    path: str
    format: str
    opset: int
    bytes: int
    layers_integer: list[str]
    """Layers that the runtime computes on integers."""
    layers_float: list[dict[str, str]]
    """``name`` and ``reason`` of the others."""
    images: int
    """That logits were compared on."""
    first_choices_equal: bool
    logits_difference: float
    """The largest, from those of ``load()``, in units of their spread."""
    ms_float: float
    """Milliseconds a batch of the same network in float32, in the same runtime."""
    ms_quantized: float
    batch: int
    threads: int
    processor: str
    """That time was measured on."""
    seconds: float


@dataclass(frozen=True)
class QuantizationResult:
    """What ``quantize`` made; shares are in percent."""

    path: str
    model: str
    w_bits: int
    a_bits: int
    recipe: str
    bytes_float: int
    bytes_quantized: int
    agreement: float
    """With the teacher, on images held out from tuning; NaN (in JSON: null) without images."""
    kl: float
    """From the teacher, in nats, on the same images."""
    heterogeneity: float
    seconds: float
    stages: dict[str, float]
    seed: int
    device: str
    act_placement: str
    held_out: int
    pictures: int = 0
    """Of the images, those that the user gave."""
    logits_error: float = math.nan
    """Without images: how far the logits are off the float network's, relative to their spread, on random images."""
    random_images: bool = False
    """Without images: whether ranges come from random ones, as batch-norm statistics do not fit the network."""
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    sqnr: dict[str, float] = field(default_factory=dict)
    """Signal to quantization noise of what every batch norm puts out, in dB, on the same images."""
    avg_bits: float = math.nan
    """Of a quantized weight."""
    frontier: list[FrontierPoint] = field(default_factory=list)
    """Where bits were chosen under a budget: what this and other budgets buy."""
    dry_run: bool = False
    foretold: Foretold | None = None
    """By a dry run; None where there is nothing to tell it by."""
    export: ExportResult | None = None
    """The proof of ``model.onnx``, where that was asked for."""


@dataclass(frozen=True)
class Failure:
    """One of several that failed."""

    name: str
    """The target, or the seed."""
    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class SeedsResult:
    """What ``quantize_seeds`` made."""

    runs: list[QuantizationResult]
    failed: list[Failure]
    mean: dict[str, float]
    """Over the runs: of agreement and divergence (``kl``); without images of ``logits_error``."""
    range: dict[str, tuple[float, float]]
    """The smallest and the largest."""


@dataclass(frozen=True)
class PushedFile:
    """One file in the repository."""

    path: str
    bytes: int


@dataclass(frozen=True)
class PushResult:
    """What ``push`` sent, or would send."""

    repo_id: str
    url: str
    commit: str | None
    """None where nothing was sent."""
    files: tuple[PushedFile, ...]
    card: str
    """The README.md among them."""
    pull_request: str | None = None
    left_out: tuple[str, ...] = ()
    """What else lies in the folder, and stays there."""
    dry_run: bool = False


@dataclass(frozen=True)
class ReportResult:
    """The page that ``report`` wrote."""

    path: str
    bytes: int
    checkpoints: list[str]
    """Folders that it tells of."""
