"""Local object reinforcement (LOR): the network should see the object at more than one scale (IntraQ, CVPR 2022).

With some probability an image is replaced by a random crop of itself, resized to full size and possibly mirrored,
before it enters the network; the gradient flows through the crop to the image.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.runtime.device import to_device

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's, and the published code's
ATTEMPTS = 10


def draw_crops(n: int, height: int, width: int, eta: float, generator: torch.Generator) -> Tensor:
    """Draw ``n`` crops: area fraction U(eta, 1), aspect ratio log-uniform in (3/4, 4/3) of the image's own; ``(n, 4)``.

    A row is top, left, height, width of the first of ten tries that fits, else of the whole image. For square images
    the distribution is that of torchvision's ``RandomResizedCrop.get_params``. The result is on the CPU.
    """
    area = height * width * torch.empty(n, ATTEMPTS).uniform_(eta, 1, generator=generator)
    ratio = torch.empty(n, ATTEMPTS).uniform_(*map(math.log, ASPECT_RATIO), generator=generator).exp() * width / height
    w = (area * ratio).sqrt().round().long()
    h = (area / ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)  # (n, 1)
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    none = ~fits.any(1) | (eta >= 1)
    h, w = h.masked_fill(none, height), w.masked_fill(none, width)
    top = (torch.rand(n, generator=generator) * (height - h + 1)).long()
    left = (torch.rand(n, generator=generator) * (width - w + 1)).long()
    return torch.stack([top, left, h, w], 1)


def crop_resize_flip(images: Tensor, crops: Tensor, flips: Tensor) -> Tensor:
    """Crop each image, resize it to full size (bilinear), and mirror it if requested: one batched operation.

    Equals torchvision's ``resized_crop`` and ``hflip`` image by image. Differentiable in ``images``.

    Args:
        images: ``(B, C, H, W)``.
        crops: ``(B, 4)``: top, left, height, width in pixels.
        flips: ``(B,)`` bool.
    """
    height, width = images.shape[-2:]
    top, left, h, w = to_device(crops.to(images.dtype), images.device)[:, :, None].unbind(1)  # each (B, 1)
    ys = _source_positions(height, top, h)  # (B, H)
    xs = _source_positions(width, left, w)  # (B, W)
    xs = torch.where(to_device(flips, images.device)[:, None], xs.flip(1), xs)
    # on CUDA, grid_sample sums gradients in no fixed order
    return _by_products(images, ys, xs) if images.is_cuda else _by_sampling(images, ys, xs)


def _by_sampling(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Interpolate bilinearly at rows ``ys (B, H)`` and columns ``xs (B, W)``, both fractional pixel indices."""
    height, width = images.shape[-2:]
    # pixel index i sits at (2 i + 1) / size - 1 in grid_sample's coordinates
    ys, xs = (2 * ys + 1) / height - 1, (2 * xs + 1) / width - 1
    grid = torch.stack([xs[:, None, :].expand(-1, height, -1), ys[:, :, None].expand(-1, -1, width)], -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _by_products(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Compute the same as two matrix products."""
    rows, columns = (
        (1 - (at[:, :, None] - torch.arange(at.shape[1], device=at.device)).abs()).clamp(min=0) for at in (ys, xs)
    )
    made = rows[:, None] @ images @ columns[:, None].mT
    return made.contiguous(memory_format=torch.channels_last)  # as uncropped images: a CUDA graph needs a fixed layout


def _source_positions(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Compute where each of ``size`` output pixels reads: fractional indices ``(B, size)``, never outside the crop."""
    positions = (torch.arange(size, device=start.device, dtype=start.dtype) + 0.5) * (length / size) - 0.5
    return start + torch.minimum(positions.clamp(min=0), length - 1)


def local_object_reinforcement(
    images: Tensor, eta: float, probability: float, coin: str, generator: torch.Generator
) -> Tensor:
    """Apply LOR to a batch ``(B, C, H, W)``: each chosen image is cropped on its own and flipped with probability 1/2.

    Args:
        images: ``(B, C, H, W)``.
        eta: smallest area fraction of a crop.
        probability: probability that an image is chosen.
        coin: ``"batch"``, one draw for the whole batch (the published code), or ``"image"``, one draw per image: the
            same share of crops with less noise from step to step.
        generator: on the CPU, so that draws do not depend on the device.
    """
    if probability == 0:
        return images
    n, _, height, width = images.shape
    chosen = torch.rand(1 if coin == "batch" else n, generator=generator) < probability
    if not chosen.any():
        return images
    crops = draw_crops(n, height, width, eta, generator)
    flips = torch.rand(n, generator=generator) < 0.5
    if coin == "image":
        crops = torch.where(chosen[:, None], crops, torch.tensor([0, 0, height, width]))
        flips = flips & chosen
    return crop_resize_flip(images, crops, flips)
