"""What the verbs return, and ``--json`` prints."""

import math
from dataclasses import dataclass, field
from typing import Any


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
    image_shape: tuple[int, int, int]
    bytes: int
    classes: list[ClassCount]
    """That occur."""
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
    png: str | None = None
    """What was written: a folder of class folders."""
    sheet: str | None = None
    """What was written: a contact sheet."""


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


@dataclass(frozen=True)
class ReportResult:
    """The page that ``report`` wrote."""

    path: str
    bytes: int
    checkpoints: list[str]
    """Folders that it tells of."""


@dataclass(frozen=True)
class ComparedCheckpoint:
    """One of those that ``compare`` looked at; shares are in percent, and None is what is not known."""

    path: str
    name: str
    """Of the folder, made to differ from the others'."""
    model: str | None
    w_bits: int | None
    a_bits: int | None
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
