"""What the stages have made of a network, before anything is written."""

import math
from dataclasses import dataclass

from torch import Tensor

from intraq_cli.evaluation.fidelity import Fidelity
from intraq_cli.quantization.network import QuantizedNetwork


@dataclass(frozen=True)
class Made:
    """The end of ``quantize``, before anything is written."""

    student: QuantizedNetwork
    stored: dict[str, tuple[Tensor, Tensor, Tensor]]
    """What a checkpoint stores of its weights: codes, scale and zero-point by layer."""
    fidelity: Fidelity
    losses: dict[str, float]
    """Of tuning, at its end; empty without."""
    logits_error: float = math.nan
    """Without images: relative to the spread of the float network's logits, on random images; NaN where these are
    nothing like what the network has seen."""
    tuning_undone: bool = False
    """Whether it is the calibrated network, as tuning made it follow its teacher less closely."""
    random_images: bool = False
    """Whether it was calibrated on such, as batch-norm statistics do not describe it."""
