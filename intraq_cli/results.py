"""What the verbs return, and ``--json`` prints."""

import math
from dataclasses import dataclass, field
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
    """Expected before tuning, in nats: the sum of what each layer does alone."""
    chosen: bool


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
    """With the teacher, on synthetic images held out from tuning; NaN (in JSON: null) without images."""
    kl: float
    """From the teacher, in nats, on the same images."""
    heterogeneity: float
    seconds: float
    stages: dict[str, float]
    seed: int
    device: str
    act_placement: str
    held_out: int
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
    export: "ExportResult | None" = None
    """The proof of ``model.onnx``, where that was asked for."""


@dataclass(frozen=True)
class InspectedLayer:
    """A convolution or linear layer."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    calls: int
    parameters: int
    multiply_adds: int
    """For one image."""
    w_bits: int | None
    """None: float."""
    a_bits: int | None
    """Of its input; None: float, or not known to be quantized."""
    bytes: int
    float_reason: str | None


@dataclass(frozen=True)
class LayerSensitivity:
    """How far the network moves when a layer alone is quantized; divergence in nats by bits."""

    name: str
    kind: str
    weights: dict[int, float]
    inputs: dict[int, float]
    """Empty where the placement leaves what the layer reads float."""
    spared: dict[int, float] = field(default_factory=dict)
    """The other way round: of the network with everything at so many bits but this layer, which stays float."""


@dataclass(frozen=True)
class SensitivityResult:
    """What ``sensitivity`` found."""

    path: str | None
    """Of the file that holds it, too."""
    model: str
    act_placement: str
    n: int
    """Synthetic images."""
    widths: list[int]
    layers: list[LayerSensitivity]
    everything: dict[int, float]
    """Divergence of the network with everything at so many bits."""
    sha256: str | None
    """Of the float weights."""
    seed: int
    device: str
    seconds: float


@dataclass(frozen=True)
class InspectionResult:
    """What ``inspect`` found."""

    model: str
    architecture: str
    weights: str
    """``read`` or ``not read`` (nothing here depends on them); of a checkpoint ``quantized``."""
    input_size: tuple[int, int, int]
    num_classes: int
    w_bits: int
    a_bits: int
    act_placement: str
    batch_norms: int
    activations: int
    """Calls of ReLU-like functions."""
    layers: list[InspectedLayer]
    parameters: int
    parameters_quantized: int
    multiply_adds: int
    low_bit_share: float
    """Percent of the multiply-adds of which both factors are quantized."""
    bytes_float: int
    bytes_quantized: int
    """Size of ``model.safetensors``, to the byte."""
    bit_operations: int | None = None
    """For one image: multiply-adds times the bits of both factors, 32 of a float; None where it was not noted."""
    agreement: float | None = None
    """Of a checkpoint, with its float model on held-out synthetic images, in percent."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Accuracies noted in a checkpoint."""


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
    """Of agreement and divergence (``kl``) over the runs."""
    range: dict[str, tuple[float, float]]
    """The smallest and the largest."""


@dataclass(frozen=True)
class EvaluationsResult:
    """What ``evaluate_many`` found."""

    results: list[EvaluationResult]
    failed: list[Failure]


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
class PredictionResult:
    """What ``predict`` found in one picture."""

    image: str
    classes: list[int]
    """The first five, the most probable one first."""
    names: list[str]
    probabilities: list[float]
    """Percent."""


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
