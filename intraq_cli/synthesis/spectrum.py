"""The parameters that are optimised for an image: its pixels, as published, or its spectrum.

The gradient of a single pixel is mostly noise from the crops and from other images in the batch. An optimizer that
makes equally large steps for all pixels (Adam) turns it into grain. The first layers of a network respond to grain, so
their statistics stay far from those of real images. Steps in the spectrum, scaled as ``1 / f^p``, change coarse
structure by much and fine structure by little (a preconditioner, as in feature visualisation: Olah et al., Distill
2017). Likewise for colour: red, green and blue of natural images correlate, so steps in colour are smaller than those
in brightness.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

POWER = 1.5
"""``p``: the best of 1, 1.25, 1.5 and 2 for all losses together; natural images have about 1."""
START = 0.3
"""Standard deviation of the noise that spectra start from; stronger noise leaves black and white blobs."""

CHROMA = 0.25
"""Amplitude of colour relative to brightness: 0.15 to 0.4 are similar, 1 (independent channels) is far worse."""
BRIGHTNESS_AND_COLOURS = torch.tensor([[2.0, 3.0, 1.0], [2.0, -3.0, 1.0], [2.0, 0.0, -2.0]])
"""Columns: grey, red against green, both against blue; orthogonal."""


class Pixels:
    """The space of pixels: a point is the image itself; ``shape`` is ``(C, H, W)``."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device | str) -> None:
        self.shape = shape

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` initial points on the CPU: white noise ``(n, C, H, W)`` of variance 1, as published."""
        return torch.randn(n, *self.shape, generator=generator)

    def images(self, points: Tensor) -> Tensor:
        """Convert points to images ``(n, C, H, W)``: they are the same."""
        return points

    def points(self, images: Tensor) -> Tensor:
        """Convert images ``(n, C, H, W)`` to points: they are the same."""
        return images


class Spectrum:
    """The space of spectra: a point is the spectrum of an image; ``shape`` is ``(C, H, W)``.

    Points are Fourier coefficients ``(n, C, H, W // 2 + 1, 2)`` in units of ``1 / f^p``: the coefficients of white
    noise become smooth noise of the same variance. Three channels are taken to be colours: their coefficients are those
    of brightness and of two colour differences, the latter in units of ``CHROMA``.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device | str) -> None:
        self.shape = shape
        channels, height, width = shape
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
        # cycles per pixel; the mean of an image counts as the lowest frequency
        amplitude = (rows.square() + columns.square()).sqrt().clamp(min=1 / max(height, width)) ** -POWER
        amplitude = amplitude / amplitude.square().mean().sqrt()
        self.amplitude = amplitude[:, : width // 2 + 1].to(device)
        mixing = torch.eye(channels)
        if channels == 3:
            mixing = F.normalize(BRIGHTNESS_AND_COLOURS, dim=0) * torch.tensor([1.0, CHROMA, CHROMA])
            mixing = mixing / mixing.square().sum(1).mean().sqrt()
        self.mixing, self.unmixing = mixing.to(device), torch.linalg.inv(mixing).to(device)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` initial points on the CPU: the spectra of white noise."""
        noise = START * torch.randn(n, *self.shape, generator=generator)
        return torch.view_as_real(torch.fft.rfft2(noise, norm="ortho"))

    def images(self, points: Tensor) -> Tensor:
        """Convert points to images ``(n, C, H, W)``, differentiable in ``points``."""
        own = torch.fft.irfft2(torch.view_as_complex(points) * self.amplitude, s=self.shape[1:], norm="ortho")
        return torch.einsum("dc,nchw->ndhw", self.mixing, own)

    def points(self, images: Tensor) -> Tensor:
        """Convert images ``(n, C, H, W)`` to points."""
        own = torch.einsum("cd,ndhw->nchw", self.unmixing, images)
        return torch.view_as_real(torch.fft.rfft2(own, norm="ortho") / self.amplitude)


SPACES: dict[str, type[Pixels] | type[Spectrum]] = {"pixels": Pixels, "spectrum": Spectrum}
