"""A loss on the synthetic images, in a file of its own: total variation, which asks for smooth ones.

intraq synthesize resnet20_digits --set synthesis.losses.docs/examples/total_variation.py:total_variation=0.1
"""

from torch import Tensor

from intraq_cli import LossInput


def total_variation(given: LossInput) -> Tensor:
    """Mean absolute difference of neighbouring pixels, of images in [0, 1]; a scalar."""
    x = given.pixels
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., :, 1:] - x[..., :, :-1]).abs().mean()
