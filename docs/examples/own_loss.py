"""A loss of one's own from Python: images of low contrast cost something.

python docs/examples/own_loss.py resnet20_digits --out digits-images.safetensors
"""

import argparse

from torch import Tensor

from intraq_cli import LossInput, image_loss, images, synthesize


@image_loss
def low_contrast(given: LossInput) -> Tensor:
    """How far each image's standard deviation is below that of photographs, squared; a scalar."""
    contrast = given.pixels.flatten(1).std(1)  # (B,)
    return (0.25 - contrast).clamp(min=0).square().mean()


def main() -> None:
    """Make images with the loss, and show what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--out", default="images.safetensors")
    parser.add_argument("--weight", type=float, default=10.0)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    overrides = [f"synthesis.losses.low_contrast={given.weight}", *given.set]
    made = synthesize(given.model, out=given.out, recipe=given.recipe, set=overrides, force=True)
    print(f"{made.path}: low_contrast {made.losses['low_contrast']:.5f}, BNS {made.losses['bns']:.4f}")
    images(made.path, sheet=f"{given.out}.png", force=True)


if __name__ == "__main__":
    main()
