"""All losses on the images in one table: those of the paper, and the user's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_cli.graph.batch_norms import LayerStatistics
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime.extensions import IMAGE_LOSSES, Extension
from intraq_cli.synthesis.bns import paper_bns_loss, scale_free_bns_loss
from intraq_cli.synthesis.mdc import marginal_distance_loss
from intraq_cli.synthesis.sil import soft_inception_loss

BNS_LOSSES = {"paper": paper_bns_loss, "scale-free": scale_free_bns_loss}


@dataclass(frozen=True)
class LossInput:
    """The input of a loss: a batch of images as the network sees them, and the network's outputs on them.

    Tensors are float32 on the device of the run. A loss is a scalar function of ``images``, ``pixels``, ``logits``,
    ``features``, and the means and variances in ``layers``, all of which are differentiable. It is called at every
    step, and possibly under ``torch.no_grad`` for the final metrics.
    """

    images: Tensor
    """``(B, C, H, W)``, normalised: the whole batch, each image cropped and mirrored by local object reinforcement;
    at the end, the images themselves."""
    black: Tensor
    """``(C, 1, 1)``, the normalised value of a black pixel."""
    white: Tensor
    """``(C, 1, 1)``, the normalised value of a white pixel."""
    logits: Tensor
    """``(B, K)``."""
    labels: Tensor
    """``(B,)``, int64: the class that each image is made for."""
    targets: Tensor
    """``(B,)``: the probability that the network should give this class (SIL)."""
    features: Tensor | None
    """``(B, D)``, the classifier's input; None if it does not have one row per image."""
    layers: list[LayerStatistics]
    """For every call of a batch norm: ``mean`` and ``var`` ``(C,)`` of its input over the batch, and those of the
    training data, ``running_mean`` and ``running_var``, with ``eps``."""
    centres: Tensor | None = None
    """``(B, D)``, the mean feature of each image's class in earlier batches; None in the first batch (MDC)."""
    known: Tensor | None = None
    """``(B,)`` bool: whether earlier batches had images of the class."""

    @property
    def pixels(self) -> Tensor:
        """The images in [0, 1], ``(B, C, H, W)``; slightly outside if the recipe does not clip them."""
        return (self.images - self.black) / (self.white - self.black)


@dataclass(frozen=True)
class Term:
    """A loss and its weight in the total."""

    weight: float
    function: Callable[[LossInput], Tensor]


def terms(config: Synthesis) -> dict[str, Term]:
    """Return all losses of a recipe by name, in the order in which they are summed."""

    def mdc(given: LossInput) -> Tensor:
        if given.features is None or given.centres is None or given.known is None or not config.mdc_weight:
            return given.logits.new_zeros(())
        return marginal_distance_loss(
            given.features, given.centres, given.known, config.lambda_lower, config.lambda_upper
        )

    built_in = {
        "bns": Term(config.bns_weight, lambda given: BNS_LOSSES[config.bns](given.layers)),
        "sil": Term(config.sil_weight, lambda given: soft_inception_loss(given.logits, given.labels, given.targets)),
        "mdc": Term(config.mdc_weight, mdc),
    }
    users = {IMAGE_LOSSES[name]: weight for name, weight in config.losses.items()}
    return built_in | {loss.title: Term(weight, _checked(loss)) for loss, weight in users.items()}


def _checked(loss: Extension) -> Callable[[LossInput], Tensor]:
    """Wrap the user's loss; refuse a result that cannot be summed and differentiated."""

    def call(given: LossInput) -> Tensor:
        made = loss(given)
        if not isinstance(made, Tensor):
            raise loss.refuse(f"returned {type(made).__name__}, not a scalar tensor")
        if made.dim() or not made.is_floating_point() or made.device != given.images.device:
            kind = f"{str(made.dtype).removeprefix('torch.')} of shape {tuple(made.shape)} on {made.device}"
            raise loss.refuse(f"returned {kind}, not a float scalar on {given.images.device}")
        if torch.is_grad_enabled() and not made.requires_grad and made.item():
            raise loss.refuse("returned a tensor without a gradient for the images (detached, or rounded?)")
        return made.float()

    return call
