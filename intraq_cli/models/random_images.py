"""Random images, for where there are neither synthetic ones nor pictures."""

import torch
from torch import Tensor

from intraq_cli.models.input_spec import InputSpec

CAST = 0.15
"""Standard deviation of a channel's brightness about the image's; 1 is from black to white."""


SPAN = 2.0
"""Standard deviations to either side that stand for black and white where pixels are as the network states them."""


def random_pixels(spec: InputSpec, count: int = 64, seed: int = 0, as_stated: bool = False) -> Tensor:
    """Random images ``(count, C, H, W)``, normalised, for ranges of layers that no batch norm describes.

    Noise whose spectrum falls off with 1/f, as that of photographs does, of any brightness and contrast, some with a
    colour cast: of white noise little but the mean is left where a convolution adds up neighbours.

    Args:
        spec: of the network.
        count: of images.
        seed: of the noise.
        as_stated: within :data:`SPAN` standard deviations of the mean that ``spec`` states, in place of from black to
            white: photographs fill the range of pixels, other data may not.
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
