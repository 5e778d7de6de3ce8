"""What a network is calibrated and tuned on: images that were learned from it, pictures that somebody gave, or both."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TuningImages:
    """Images, on the CPU, and what the float network makes of them."""

    images: Tensor
    """``(N, C, H, W)``, float16, normalised as the network receives them: what is tuned on is what a file holds."""
    labels: Tensor
    """``(N,)``, the class that an image was made for; of a picture, the float network's top-1 prediction."""
    losses: dict[str, float]
    """Of stage 1: parts of the loss of the finished images (no crops), averaged over the batches. Of pictures: BNS."""
    teacher_accuracy: float
    """Share of the synthetic images that the teacher puts into their class."""
    heterogeneity: float
    confidences: Tensor | None = None
    """``(N,)``, what the teacher gives each image's class, as a probability; None where a file does not say it."""
    given: Tensor | None = None
    """``(N,)``, bool: pictures that somebody gave, which are shown and sent nowhere; None: all are synthetic."""
    learned_from: str | None = None
    """The float network whose images the synthetic ones are, where it has other weights than the one quantized."""

    @property
    def pictures(self) -> int:
        """How many are pictures that somebody gave."""
        return 0 if self.given is None else int(self.given.sum())

    @property
    def kind(self) -> str:
        """What :attr:`losses` are of: ``synthesis`` or ``pictures``."""
        return "synthesis" if self.pictures < len(self.images) else "pictures"

    def select(self, chosen: Tensor | slice) -> "TuningImages":
        """Some of them: indices ``(M,)``, a mask ``(N,)`` or a slice."""
        confidences, given = (None if one is None else one[chosen] for one in (self.confidences, self.given))
        images, labels = self.images[chosen], self.labels[chosen]
        return replace(self, images=images, labels=labels, confidences=confidences, given=given)

    def shown(self) -> "TuningImages | None":
        """Those that may be shown; None where all are pictures that somebody gave."""
        if self.given is None:
            return self
        return None if self.kind == "pictures" else self.select(~self.given)


def shuffled_together(synthetic: TuningImages, pictures: TuningImages, seed: int) -> TuningImages:
    """Both kinds, in a random order; figures are those of the synthetic ones."""
    both = [synthetic, pictures]
    count = len(synthetic.images) + len(pictures.images)
    given = torch.arange(count) >= len(synthetic.images)
    known = [one.confidences for one in both if one.confidences is not None]
    made = replace(
        synthetic,
        images=torch.cat([one.images for one in both]),
        labels=torch.cat([one.labels for one in both]),
        confidences=torch.cat(known) if len(known) == len(both) else None,
        given=given,
    )
    return made.select(torch.randperm(count, generator=torch.Generator().manual_seed(seed)))


def hold_out(made: TuningImages, share: float) -> tuple[TuningImages, Tensor]:
    """Images to tune on, and the last ones, on which agreement is measured; with too few, the same ones twice."""
    count = min(round(len(made.images) * share), len(made.images) - 1)
    if count < 1:
        return made, made.images
    keep = len(made.images) - count
    return made.select(slice(keep)), made.images[keep:]
