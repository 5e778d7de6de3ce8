"""Random images, used if there are neither synthetic images nor pictures."""

import torch
from torch import Tensor

from intraq_cli.models.input_spec import InputSpec

CAST = 0.15
"""Standard deviation of a channel's brightness around the image's brightness; 1 is the range from black to white."""
SPAN = 2.0
"""With ``as_stated``, black and white are this many of the network's pixel standard deviations from its mean."""


def random_pixels(spec: InputSpec, count: int = 64, seed: int = 0, as_stated: bool = False) -> Tensor:
    """Return random images ``(count, C, H, W)``, normalised, for ranges of layers that no batch norm describes.

    They are noise with a 1/f spectrum, like photographs, with random brightness and contrast and a random colour cast.
    White noise would not do: a convolution that sums over neighbours leaves little of it but the mean.

    Args:
        spec: input of the network.
        count: number of images.
        seed: seed of the noise.
        as_stated: limit pixels to :data:`SPAN` standard deviations around the mean in ``spec``, instead of the range
            from black to white: photographs fill the pixel range, other data may not.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = spec.input_size
    grey = torch.randn(count, 1, height, width, generator=generator)
    noise = grey + 0.5 * torch.randn(count, channels, height, width, generator=generator)
    frequency = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
    noise = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency.clamp(min=1 / max(height, width)), s=(height, width))
    noise = noise / noise.std((1, 2, 3), correction=0, keepdim=True).clamp(min=1e-6)
    contrast, brightness = torch.rand(2, count, 1, 1, 1, generator=generator)
    brightness = brightness + CAST * torch.randn(count, channels, 1, 1, generator=generator)
    low, high = (edge.clamp(-SPAN, SPAN) if as_stated else edge for edge in spec.bounds)
    low, high = low[:, None, None], high[:, None, None]
    return low + (high - low) * (brightness + 0.5 * contrast * noise).clamp(0, 1)
