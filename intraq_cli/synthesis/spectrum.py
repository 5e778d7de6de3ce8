"""What is learned of an image: its pixels, as published, or its spectrum.

The gradient of one pixel is mostly noise, of crops and of the other images in the batch. An optimizer that makes every
pixel's step as large as any other's (Adam) turns it into grain, and grain is what the first layers of a network see:
their statistics then stay far from those of real images. Steps in the spectrum, scaled as ``1 / f^p``, move coarse
structure by much and the finest by little (a preconditioner, as in feature visualisation: Olah et al., Distill 2017).
So with colour: red, green and blue of natural images rise and fall together, and steps in colour are smaller than those
in brightness.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

POWER = 1.5
"""``p``: of 1, 1.25, 1.5 and 2 the best for all losses together; natural images fall off with about 1."""
START = 0.3
"""Standard deviation of the noise that images begin with; stronger noise leaves blobs in black and white."""

CHROMA = 0.25
"""Amplitude of colour relative to brightness: 0.15 to 0.4 are much alike, 1 (channels on their own) is far worse."""
BRIGHTNESS_AND_COLOURS = torch.tensor([[2.0, 3.0, 1.0], [2.0, -3.0, 1.0], [2.0, 0.0, -2.0]])
"""Columns: grey, red against green, both against blue; orthogonal."""


class Pixels:
    """Points to optimise that are the images themselves, from white noise; ``shape`` is ``(C, H, W)``."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device | str) -> None:
        self.shape = shape

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` points to begin with, on the CPU: white noise ``(n, C, H, W)`` of variance 1, as published."""
        return torch.randn(n, *self.shape, generator=generator)

    def images(self, points: Tensor) -> Tensor:
        """The images ``(n, C, H, W)`` that points stand for: these are the same."""
        return points

    def points(self, images: Tensor) -> Tensor:
        """The points that stand for images ``(n, C, H, W)``: these are the same."""
        return images


class Spectrum:
    """Points to optimise that are the spectra of images; ``shape`` is ``(C, H, W)``.

    They are Fourier coefficients ``(n, C, H, W // 2 + 1, 2)`` in units of ``1 / f^p``: those of white noise stand for
    smooth noise of the same variance. Three channels are taken for colours: their coefficients are those of brightness
    and of two differences, these in units of ``CHROMA``.
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
        """``n`` points to begin with, on the CPU: those of white noise."""
        noise = START * torch.randn(n, *self.shape, generator=generator)
        return torch.view_as_real(torch.fft.rfft2(noise, norm="ortho"))

    def images(self, points: Tensor) -> Tensor:
        """The images ``(n, C, H, W)`` that points stand for, differentiable in ``points``."""
        own = torch.fft.irfft2(torch.view_as_complex(points) * self.amplitude, s=self.shape[1:], norm="ortho")
        return torch.einsum("dc,nchw->ndhw", self.mixing, own)

    def points(self, images: Tensor) -> Tensor:
        """The points that stand for images ``(n, C, H, W)``."""
        own = torch.einsum("cd,ndhw->nchw", self.unmixing, images)
        return torch.view_as_real(torch.fft.rfft2(own, norm="ortho") / self.amplitude)


SPACES: dict[str, type[Pixels] | type[Spectrum]] = {"pixels": Pixels, "spectrum": Spectrum}
