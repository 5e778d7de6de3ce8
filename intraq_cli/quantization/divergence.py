"""The divergence between the outputs of two networks."""

from torch import Tensor
from torch.nn import functional as F


def kl_at_temperature(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, batch mean; logits ``(B, K)`` (Hinton 2015)."""
    log_q = F.log_softmax(student / temperature, 1)
    log_p = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
