"""Results about networks: what ``inspect`` and ``sensitivity`` found."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InspectedLayer:
    """An operation that multiplies: a layer, or a product that stays float."""

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
    """Bits of its input, the most of all its calls; None: float, in one of them at least."""
    bytes: int
    """Size of its weight in ``model.safetensors``, with scales and zero-points."""
    float_reason: str | None
    """Why it stays float; None if it is quantized."""
    call_bits: list[int | None] = field(default_factory=list)
    """Bits of what each call reads; None: float."""
    call_multiply_adds: list[int] = field(default_factory=list)
    """Multiply-adds of each call, for one image."""


@dataclass(frozen=True)
class LayerSensitivity:
    """How far the network moves when a layer alone is quantized: divergence at the result's temperature, by bits."""

    name: str
    kind: str
    weights: dict[int, float]
    """Divergence when its weight alone has so many bits."""
    inputs: dict[int, float]
    """Divergence when its input alone has so many bits; empty where the placement leaves that float."""
    spared: dict[int, float] = field(default_factory=dict)
    """Divergence when everything but this layer has so many bits, and the layer stays float."""


@dataclass(frozen=True)
class SensitivityResult:
    """What ``sensitivity`` found."""

    path: str | None
    """Path of the file that it was written to, if any."""
    model: str
    act_placement: str
    n: int
    """Number of images."""
    widths: list[int]
    layers: list[LayerSensitivity]
    everything: dict[int, float]
    """Divergence of the network with everything at so many bits."""
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
    """Temperature of the softmax; divergences are times its square (Hinton et al. 2015)."""


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
    """Number of calls of ReLU-like functions."""
    layers: list[InspectedLayer]
    parameters: int
    parameters_quantized: int
    multiply_adds: int
    low_bit_share: float
    """Percent of the multiply-adds of which both factors are quantized."""
    bytes_float: int
    bytes_quantized: int
    """Size of ``model.safetensors``, to the byte."""
    bit_operations: int
    """For one image: multiply-adds times the bits of both factors, 32 of a float."""
    agreement: float | None = None
    """Agreement of a checkpoint with its float model on held-out synthetic images, in percent."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Accuracies noted in a checkpoint."""
