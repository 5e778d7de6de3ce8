"""The images for calibration and tuning: synthetic images, real pictures from the user, or both."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TuningImages:
    """Images, on the CPU, with labels and metrics from the float network."""

    images: Tensor
    """``(N, C, H, W)``, float16, normalised for the network; the same precision as in a file."""
    labels: Tensor
    """``(N,)``, the class that an image was made for; for a picture, the float network's top-1 prediction."""
    losses: dict[str, float]
    """Synthetic images: stage 1's losses of the finished images (no crops), mean over batches. Pictures: BNS."""
    teacher_accuracy: float
    """Share of the synthetic images that the teacher assigns to their class."""
    heterogeneity: float
    confidences: Tensor | None = None
    """``(N,)``, the teacher's probability of each image's class; None if a file does not contain it."""
    given: Tensor | None = None
    """``(N,)``, bool: marks the user's pictures, which are never displayed or uploaded; None: all are synthetic."""
    learned_from: str | None = None
    """The float network that the synthetic images were learned from, if its weights are not those being quantized."""

    @property
    def pictures(self) -> int:
        """Number of pictures given by the user."""
        return 0 if self.given is None else int(self.given.sum())

    @property
    def kind(self) -> str:
        """What :attr:`losses` refer to: ``synthesis`` or ``pictures``."""
        return "synthesis" if self.pictures < len(self.images) else "pictures"

    def select(self, chosen: Tensor | slice) -> "TuningImages":
        """Select some of the images by indices ``(M,)``, a mask ``(N,)`` or a slice."""
        confidences, given = (None if one is None else one[chosen] for one in (self.confidences, self.given))
        images, labels = self.images[chosen], self.labels[chosen]
        return replace(self, images=images, labels=labels, confidences=confidences, given=given)

    def shown(self) -> "TuningImages | None":
        """Return the images that may be displayed; None if all are the user's pictures."""
        if self.given is None:
            return self
        return None if self.kind == "pictures" else self.select(~self.given)


def shuffled_together(synthetic: TuningImages, pictures: TuningImages, seed: int) -> TuningImages:
    """Combine both kinds in random order; metrics are those of the synthetic images."""
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
    """Split off the last images, on which agreement is measured; with too few images, return all of them twice."""
    count = min(round(len(made.images) * share), len(made.images) - 1)
    if count < 1:
        return made, made.images
    keep = len(made.images) - count
    return made.select(slice(keep)), made.images[keep:]
