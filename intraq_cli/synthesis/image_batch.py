"""One batch of images that is optimised from noise: its parameters, its optimizer, and its state."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from intraq_cli.synthesis.lor import local_object_reinforcement
from intraq_cli.synthesis.objective import Losses, Objective
from intraq_cli.synthesis.sil import draw_targets
from intraq_cli.synthesis.spectrum import SPACES


class ImageBatch:
    """Images, represented by a point in the recipe's space (pixels or spectra) that Adam optimises.

    Args:
        objective: the loss; its config has all other settings, its bounds are those of the pixels.
        shape: ``(C, H, W)``.
        labels: ``(B,)``, on the device.
        generator: random generator for the noise, the targets and the crops.
        lr: Adam's learning rate.
    """

    def __init__(
        self, objective: Objective, shape: tuple[int, int, int], labels: Tensor, generator: torch.Generator, lr: float
    ) -> None:
        config, device = objective.config, labels.device
        self.objective, self.config, self.labels, self.generator = objective, config, labels, generator
        self.space = SPACES[config.space](shape, device)
        self.point = self.space.draw(len(labels), generator).to(device).requires_grad_()
        self.targets = draw_targets(len(labels), config.epsilon, generator).to(device)
        self.low, self.high = (edge[:, None, None] for edge in objective.bounds)
        self.adam = torch.optim.Adam([self.point], lr=lr, fused=True)
        self.scheduler: CosineAnnealingLR | ReduceLROnPlateau = CosineAnnealingLR(self.adam, config.steps)
        if config.schedule == "plateau":
            self.scheduler = ReduceLROnPlateau(self.adam, factor=0.1, patience=50, min_lr=1e-4)

    def step(self) -> Losses:
        """Do one optimizer step; returns its losses, detached."""
        config = self.config
        x = self.space.images(self.point).contiguous(memory_format=torch.channels_last)
        shown = local_object_reinforcement(x, config.eta, config.lor_probability, config.lor_coin, self.generator)
        losses, gradient = self.objective.with_gradient(shown, self.labels, self.targets)
        (grad,) = torch.autograd.grad(shown, [self.point], gradient)
        self.point.grad = grad.contiguous()  # the fused optimizer ignores strides
        self.adam.step()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(losses["total"].item())
        else:
            self.scheduler.step()
        if config.clip:
            with torch.no_grad():
                self.point.copy_(self.space.points(self.images()))
        return losses

    @torch.no_grad()
    def images(self) -> Tensor:
        """Return the current images ``(B, C, H, W)``, within bounds if the recipe clips them."""
        x = self.space.images(self.point).contiguous(memory_format=torch.channels_last)
        # the transform and its inverse may move a clipped pixel slightly out of bounds
        return x.clamp(self.low, self.high) if self.config.clip else x

    def state(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state` resumes from."""
        return {
            "point": self.point.detach(),
            "generator": self.generator.get_state(),
            "adam": self.adam.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state`."""
        self.point.data.copy_(state["point"])
        self.generator.set_state(state["generator"])
        self.adam.load_state_dict(state["adam"])
        self.scheduler.load_state_dict(state["scheduler"])
