"""Results about networks: those of ``inspect`` and ``sensitivity``."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InspectedLayer:
    """An operation with multiply-adds: a layer, or a product that stays float."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    calls: int
    parameters: int
    multiply_adds: int
    """Multiply-adds for one image, all calls together."""
    w_bits: int | None
    """Bits of the weight; None: float."""
    a_bits: int | None
    """Bits of its input, the largest over all its calls; None: float in at least one call."""
    bytes: int
    """Size of its weight in ``model.safetensors``, with scales and zero-points."""
    float_reason: str | None
    """Why it stays float; None if it is quantized."""
    call_bits: list[int | None] = field(default_factory=list)
    """Bits of the input of each call; None: float."""
    call_multiply_adds: list[int] = field(default_factory=list)
    """Multiply-adds of each call, for one image."""


@dataclass(frozen=True)
class LayerSensitivity:
    """Sensitivity of a layer: divergence, by bits, at the temperature of the result."""

    name: str
    kind: str
    weights: dict[int, float]
    """Divergence when only its weight is quantized, to this many bits."""
    inputs: dict[int, float]
    """Divergence when only its input is quantized, to this many bits; empty if the placement leaves it float."""
    spared: dict[int, float] = field(default_factory=dict)
    """Divergence when everything except this layer is quantized, to this many bits."""


@dataclass(frozen=True)
class SensitivityResult:
    """Result of ``sensitivity``."""

    path: str | None
    """Path of the file that the result was written to, if any."""
    model: str
    act_placement: str
    n: int
    """Number of images."""
    widths: list[int]
    layers: list[LayerSensitivity]
    everything: dict[int, float]
    """Divergence when everything is quantized, to this many bits."""
    sha256: str | None
    """SHA-256 of the float weights."""
    seed: int
    device: str
    seconds: float
    network: dict[str, str]
    """Digest of the float network's operations, and the version of torch that captured them."""
    input_size: tuple[int, int, int]
    """(C, H, W)."""
    temperature: float
    """Temperature of the softmax; divergences are multiplied by its square (Hinton et al. 2015)."""


@dataclass(frozen=True)
class InspectionResult:
    """Result of ``inspect``."""

    model: str
    architecture: str
    weights: str
    """``read`` or ``not read`` (nothing here depends on the weights); for a checkpoint, ``quantized``."""
    input_size: tuple[int, int, int]
    num_classes: int
    w_bits: int
    a_bits: int
    act_placement: str
    batch_norms: int
    activations: int
    """Number of calls of ReLU-like functions."""
    layers: list[InspectedLayer]
    parameters: int
    parameters_quantized: int
    multiply_adds: int
    low_bit_share: float
    """Percentage of the multiply-adds whose two factors are both quantized."""
    bytes_float: int
    bytes_quantized: int
    """Exact size of ``model.safetensors``."""
    bit_operations: int
    """Bit operations for one image: multiply-adds times the bits of both factors; a float has 32."""
    agreement: float | None = None
    """Agreement of a checkpoint with its float model on held-out synthetic images, in percent."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Accuracies recorded in a checkpoint."""
