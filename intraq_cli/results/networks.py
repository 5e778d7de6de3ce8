"""What is found in a network."""

from dataclasses import dataclass, field
from typing import Any


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
    """How far the network moves when a layer alone is quantized: divergence at the result's temperature, by bits."""

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
    """Images."""
    widths: list[int]
    layers: list[LayerSensitivity]
    everything: dict[int, float]
    """Divergence of the network with everything at so many bits."""
    sha256: str | None
    """Of the float weights."""
    seed: int
    device: str
    seconds: float
    network: dict[str, str] | None = None
    """Digest of the float network's operations, and the version of torch that captured them."""
    input_size: tuple[int, int, int] | None = None
    """(C, H, W)."""
    temperature: float = 1.0
    """Of the answers whose divergences these are, times its square (Hinton et al. 2015)."""


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
