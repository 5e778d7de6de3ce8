"""The result of the stages, before anything is written."""

import math
from dataclasses import dataclass

from torch import Tensor

from intraq_cli.evaluation.fidelity import Fidelity
from intraq_cli.quantization.network import QuantizedNetwork


@dataclass(frozen=True)
class QuantizedModel:
    """The result of ``quantize``, before anything is written."""

    student: QuantizedNetwork
    stored: dict[str, tuple[Tensor, Tensor, Tensor]]
    """The weights as a checkpoint stores them: codes, scale and zero-point of each layer."""
    fidelity: Fidelity
    losses: dict[str, float]
    """Losses at the end of tuning; empty without tuning."""
    logits_error: float = math.nan
    """Only without images: error of the logits on random images, relative to the spread of the float network's logits;
    NaN if the random images are too unlike the training data."""
    tuning_undone: bool = False
    """Whether the result is the calibrated network, because the tuned one matched its teacher less well."""
    random_images: bool = False
    """Whether the network was calibrated on random images, because batch-norm statistics do not describe it."""
