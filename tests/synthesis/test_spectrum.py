import pytest
import torch

from intraq_cli.synthesis.spectrum import CHROMA, SPACES, START, Spectrum

SHAPES = [(3, 32, 32), (1, 8, 8), (2, 3, 50), (3, 7, 5), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("space", SPACES)
def test_images_are_restored_from_their_points(space, shape, random):
    made = SPACES[space](shape, "cpu")
    images = torch.randn(4, *shape, generator=random)
    assert torch.allclose(made.images(made.points(images)), images, atol=1e-4)
    assert made.points(images).shape == made.draw(4, random).shape


def test_initial_images_are_smooth_noise(random):
    made = Spectrum((3, 32, 32), "cpu")
    noise = made.images(made.draw(512, random))
    assert noise.std().item() == pytest.approx(START, rel=0.05)
    power = torch.fft.rfft2(noise).abs().square().mean((0, 1))
    assert power[1:5, 1:5].mean() > 10 * power[10:16, 10:16].mean()


def test_gradient_step_moves_coarse_structure_more_than_fine_grain(random):
    made = Spectrum((1, 16, 16), "cpu")
    points = made.draw(1, random).requires_grad_()
    grain = torch.ones(1, 1, 16, 16)
    grain[..., 1::2] = -1
    even = torch.ones(1, 1, 16, 16)
    moved = []
    for wanted in (even, grain):  # of the lowest frequency, and of the highest along a row
        (gradient,) = torch.autograd.grad(made.images(points), [points], wanted)
        moved.append((made.images(points + gradient) - made.images(points)).square().mean().sqrt())
    assert moved[0] > 10 * moved[1]


def test_initial_colour_channels_are_correlated(random):
    def correlations(channels):
        made = Spectrum((channels, 32, 32), "cpu")
        noise = made.images(made.draw(256, random)).transpose(0, 1).flatten(1)
        assert torch.allclose(noise.std(1), torch.tensor(START), rtol=0.1)
        return torch.corrcoef(noise)[~torch.eye(channels, dtype=torch.bool)]

    assert torch.allclose(correlations(3), torch.tensor((1 - CHROMA**2) / (1 + 2 * CHROMA**2)), atol=0.03)
    assert correlations(4).abs().max() < 0.1
