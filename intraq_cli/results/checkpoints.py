"""Results about checkpoints: what ``quantize``, ``export``, ``report`` and ``push`` made."""

import math
from dataclasses import dataclass, field

from intraq_cli.results.images import Foretold


@dataclass(frozen=True)
class FrontierPoint:
    """A choice of bits, and the divergence that it is expected to reach."""

    bytes: int
    """Size of ``model.safetensors``."""
    avg_bits: float
    """Mean bits of a quantized weight."""
    bit_operations: int
    """Bit operations for one image: multiply-adds times the bits of both factors."""
    divergence: float
    """Expected before tuning: the sum of what each layer does alone, as ``sensitivity`` measures it."""
    chosen: bool
    """Whether the checkpoint has these bits."""


@dataclass(frozen=True)
class ExportResult:
    """What ``export`` wrote, and what comparing it with the checkpoint found."""

    path: str
    format: str
    opset: int
    bytes: int
    layers_integer: list[str]
    """Layers that the runtime computes on integers."""
    layers_float: list[dict[str, str]]
    """``name`` and ``reason`` of the layers that it computes in float32."""
    images: int
    """Number of images on which logits were compared."""
    first_choices_equal: bool
    """Whether top-1 predictions are those of ``load()`` for all of them."""
    logits_difference: float
    """Largest difference of a logit from that of ``load()``, divided by the standard deviation of the logits."""
    ms_float: float
    """Milliseconds a batch of the same network in float32, in the same runtime."""
    ms_quantized: float
    """Milliseconds a batch of the exported network."""
    batch: int
    """Images in a batch."""
    threads: int
    processor: str
    """Model of the CPU on which time was measured."""
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
    """Share of images held out from tuning with the teacher's top-1 prediction; NaN (in JSON: null) without images."""
    kl: float
    """Divergence KL(teacher || student) on the same images, in nats."""
    heterogeneity: float
    """Mean cosine distance between features of two synthetic images of a class."""
    seconds: float
    stages: dict[str, float]
    """Seconds of each stage."""
    seed: int
    device: str
    act_placement: str
    held_out: int
    """Number of images held out from tuning."""
    pictures: int = 0
    """How many of the images were the user's own pictures."""
    logits_error: float = math.nan
    """Without images: root mean square error of the logits on random images, divided by the root mean square of how
    the float network's logits differ between images."""
    random_images: bool = False
    """Without images: whether ranges come from random ones, as batch-norm statistics do not fit the network."""
    tuning_undone: bool = False
    """Whether the checkpoint is the calibrated network, as tuning made it follow its teacher less closely."""
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """Last losses of each stage, by name."""
    sqnr: dict[str, float] = field(default_factory=dict)
    """Signal-to-quantization-noise ratio of every batch norm's output, in dB, on the held-out images."""
    avg_bits: float = math.nan
    """Mean bits of a quantized weight."""
    frontier: list[FrontierPoint] = field(default_factory=list)
    """Where bits were chosen under a budget: what this and other budgets buy."""
    dry_run: bool = False
    foretold: Foretold | None = None
    """What a dry run expects of time and memory; None where there is nothing to tell it by."""
    export: ExportResult | None = None
    """What ``export`` found, where ``model.onnx`` was asked for."""


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
    """Mean over the runs of ``agreement`` and ``kl``; without images of ``logits_error``."""
    range: dict[str, tuple[float, float]]
    """Smallest and largest of the same figures."""


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
    """Text of the model card, README.md among the files."""
    pull_request: str | None = None
    left_out: tuple[str, ...] = ()
    """Files in the folder that are not sent."""
    dry_run: bool = False


@dataclass(frozen=True)
class ReportResult:
    """The page that ``report`` wrote."""

    path: str
    bytes: int
    checkpoints: list[str]
    """Folders of the checkpoints that it shows."""
