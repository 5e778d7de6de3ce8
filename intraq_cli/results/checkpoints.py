"""Results about checkpoints: those of ``quantize``, ``export``, ``report`` and ``push``."""

import math
from dataclasses import dataclass, field

from intraq_cli.results.images import Forecast


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
    """Expected divergence before tuning: the sum of the layers' divergences that ``sensitivity`` measures."""
    chosen: bool
    """Whether the checkpoint has these bits."""


@dataclass(frozen=True)
class ExportResult:
    """What ``export`` wrote, and how it compares with the checkpoint."""

    path: str
    format: str
    opset: int
    bytes: int
    layers_integer: list[str]
    """Names of the layers that the runtime computes on integers."""
    layers_float: list[dict[str, str]]
    """``name`` and ``reason`` of the layers that it computes in float32."""
    images: int
    """Number of images on which logits were compared."""
    first_choices_equal: bool
    """Whether the top-1 predictions on all of them equal those of ``load()``."""
    logits_difference: float
    """Largest difference between a logit and that of ``load()``, divided by the standard deviation of the logits."""
    ms_float: float
    """Milliseconds for a batch of the same network in float32, in the same runtime."""
    ms_quantized: float
    """Milliseconds for a batch of the exported network."""
    batch: int
    """Number of images in a batch."""
    threads: int
    processor: str
    """Model of the CPU on which times were measured."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class QuantizationResult:
    """What ``quantize`` made; shares are in percent."""

    path: str
    model: str
    w_bits: int
    a_bits: int
    recipe: str
    bytes_float: int
    bytes_quantized: int
    agreement: float = math.nan
    """Share of held-out images with the teacher's top-1 prediction; NaN (in JSON: null) without images."""
    kl: float = math.nan
    """Divergence KL(teacher || student) on the same images, in nats."""
    heterogeneity: float = math.nan
    """Mean cosine distance between features of two synthetic images of a class."""
    seconds: float = 0.0
    stages: dict[str, float]
    """Seconds of each stage."""
    seed: int
    device: str
    act_placement: str
    held_out: int = 0
    """Number of images held out from tuning."""
    pictures: int = 0
    """Number of images that were the user's own pictures."""
    logits_error: float = math.nan
    """Without images: root mean square error of the logits on random images, divided by the root mean square
    difference of the float network's logits between images."""
    random_images: bool = False
    """Without images: whether ranges were set on random images because batch norm statistics do not fit the network."""
    tuning_undone: bool = False
    """Whether the checkpoint is the calibrated network because tuning made it match its teacher less closely."""
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each stage, the last value of each loss, by name."""
    sqnr: dict[str, float] = field(default_factory=dict)
    """Signal-to-quantization-noise ratio of every batch norm's output, in dB, on the held-out images."""
    avg_bits: float = math.nan
    """Mean bits of a quantized weight."""
    mixed_bits: bool = False
    """Whether bits differ between layers; ``w_bits`` and ``a_bits`` are then those of most."""
    frontier: list[FrontierPoint] = field(default_factory=list)
    """If bits were chosen under a budget: the choices for this and other budgets."""
    dry_run: bool = False
    forecast: Forecast | None = None
    """Time and memory that a dry run expects; None if they cannot be estimated."""
    export: ExportResult | None = None
    """Result of ``export``, if ``model.onnx`` was requested."""


@dataclass(frozen=True)
class Failure:
    """A run that failed, of several."""

    name: str
    """Name of the target, or the seed."""
    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class SeedsResult:
    """Result of ``quantize_seeds``."""

    runs: list[QuantizationResult]
    failed: list[Failure]
    mean: dict[str, float]
    """Mean of ``agreement`` and ``kl`` over the runs; without images, of ``logits_error``."""
    range: dict[str, tuple[float, float]]
    """Smallest and largest value of the same fields."""


@dataclass(frozen=True)
class PushedFile:
    """One file in the repository."""

    path: str
    bytes: int


@dataclass(frozen=True)
class PushResult:
    """What ``push`` uploaded, or would upload."""

    repo_id: str
    url: str
    commit: str | None
    """Hash of the commit; None if nothing was uploaded."""
    files: tuple[PushedFile, ...]
    card: str
    """Text of the model card, which is README.md among the files."""
    pull_request: str | None = None
    left_out: tuple[str, ...] = ()
    """Files in the folder that are not uploaded."""
    dry_run: bool = False


@dataclass(frozen=True)
class ReportResult:
    """The page that ``report`` wrote."""

    path: str
    bytes: int
    checkpoints: list[str]
    """Folders of the checkpoints that it shows."""
