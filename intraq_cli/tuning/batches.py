"""Batches for stage 2: images, cropped, flipped, mixed and jittered."""

from collections.abc import Iterator

import torch
from torch import Tensor

from intraq_cli.recipe import Tuning
from intraq_cli.runtime.device import fits, to_device
from intraq_cli.synthesis.lor import crop_resize_flip, draw_crops


class AugmentedBatches(Iterator[tuple[Tensor, Tensor]]):
    """Endless batches, reshuffled every epoch; images are cropped (area at least ``eta``), half of them flipped.

    The images are moved to ``device`` if they take at most half of its free memory. Batches are always on ``device``,
    and the random draws do not depend on it.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, eta: float, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        kept = device if fits(images, device) else images.device
        self.images, self.labels, self.batch_size, self.eta = images.to(kept), labels.to(kept), batch_size, eta
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)

    def __next__(self) -> tuple[Tensor, Tensor]:
        while len(self.order) < self.batch_size:
            self.order = torch.cat([self.order, torch.randperm(len(self.images), generator=self.generator)])
        index, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        height, width = self.images.shape[-2:]
        crops = draw_crops(len(index), height, width, self.eta, self.generator)
        flips = torch.rand(len(index), generator=self.generator) < 0.5
        if self.images.is_cuda:
            index = to_device(index, self.device)
            images, labels = self.images[index], self.labels[index]
        else:
            images, labels = to_device(self.images[index], self.device), to_device(self.labels[index], self.device)
        return crop_resize_flip(images.float(), crops, flips), labels

    def state(self) -> dict[str, Tensor]:
        """Return the state that :meth:`load_state` resumes from."""
        return {"order": self.order.clone(), "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a :meth:`state`."""
        self.order = state["order"]
        self.generator.set_state(state["generator"])


def mix(images: Tensor, config: Tuning, generator: torch.Generator) -> Tensor:
    """Mix another image of the batch ``(B, C, H, W)`` into each image, with a share of at most half.

    ``mixup`` interpolates the two (Zhang et al. 2018), ``cutmix`` pastes a rectangle (Yun et al. 2019). The teacher's
    logits on the mixed images are the target, so mixing covers more of the input space than the images alone.
    """
    if config.mix == "none":
        return images
    n, _, height, width = images.shape
    other = images[to_device(torch.randperm(n, generator=generator), images.device)]
    share = torch.rand(n, generator=generator) / 2  # of the other image
    if config.mix == "mixup":
        return images.lerp(other, to_device(share[:, None, None, None], images.device))
    side = share.sqrt()
    top, left = torch.rand(2, n, generator=generator) * (1 - side)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(to_device(inside, images.device), other, images)


def jitter(images: Tensor, amount: float, bounds: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Jitter contrast, by a factor whose logarithm has standard deviation ``amount``, and brightness per channel.

    ``images (B, C, H, W)``. Synthetic images vary too little in both, as the statistics of a batch are fixed. Pixels
    are clamped to ``bounds``, ``(C, 1, 1)`` each, on the same device: if the image itself is quantized, values outside
    would be clipped, and the network would learn to compensate for that.
    """
    if not amount:
        return images
    n, channels = images.shape[:2]
    gain = (amount * torch.randn(n, 1, 1, 1, generator=generator)).exp()
    shift = 2 / 3 * amount * torch.randn(n, channels, 1, 1, generator=generator)
    mean, device = images.mean((2, 3), keepdim=True), images.device
    return ((images - mean) * to_device(gain, device) + mean + to_device(shift, device)).clamp(*bounds)
