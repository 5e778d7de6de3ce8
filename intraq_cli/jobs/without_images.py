"""Quantizing without images: by batch-norm statistics, or by random images where these contradict them.

A network that normalises by its own image, or calls one part twice, may put out what no batch norm tells of. Of random
images those count whose own statistics are the nearest to what batch norms saw in training. Where even these are
nothing like it (X-rays that fill a fiftieth of the range of pixels), they contradict nothing, and tell nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from intraq_cli.events import Warned
from intraq_cli.graph.proof import relative_error
from intraq_cli.jobs.made import Made
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.teacher import Teacher
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES
from intraq_cli.quantization.plan import Plan, at_eight_bits
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import batches_on_device
from intraq_cli.synthesis.given_pictures import least_distance, nearest_pictures
from intraq_cli.synthesis.tuning_images import TuningImages

AT_ONCE = 16
"""Images at once where time does not matter."""
RUINED = 1.0
"""Relative error of logits from which on a constant would be as good an answer."""
BLOWN_UP = 10.0
"""Relative error of logits on random images of any kind from which on images unlike those of training ruin a network:
on networks trained on photographs it was at most 0.2 at W8A8."""
DOUBTFUL = 0.08
"""Relative error of logits on random images from which on batch-norm statistics are doubted."""
CONTRADICTED = 2.2
"""How much less it must be with ranges of these images, everything at 8 bits, to go by them: on networks trained on
photographs, where they hold, it was at most 2.1 times less. With fewer bits it says little: what corrects coarse
weights on random images does so for other random images, not for photographs."""
CANDIDATES = 512
"""Random images of which the nearest to batch norms' statistics are taken."""
COMPARED = 64
"""Of the nearest, those on which ranges from statistics and from the others are compared."""
FOREIGN = 400.0
"""Squared deviations from what batch norms saw, in the one that is the nearest to it, from which on images are nothing
like those of training: at most 76 where ranges of random images were better, from 2,000 on where they were worse."""
WEAK = 0.3
"""Relative error of logits on random images from which on a way to a better network is told."""


MadeBy = Callable[[Plan, TuningImages | None], Made]


@dataclass(frozen=True)
class WithoutImages:
    """A choice between two ways to quantize ``teacher``, whose ``graph`` is captured and on the context's device."""

    teacher: Teacher
    graph: fx.GraphModule
    plan: Plan
    context: RunContext

    def better(self, made_by: MadeBy) -> Made:
        """The network that follows the teacher on random images; what is doubtful about it is reported.

        Args:
            made_by: quantizes as a plan says, by images or, given none, by batch-norm statistics.
        """
        made, images = made_by(self.plan, None), random_pixels(self.teacher.spec)
        error = on_any = relative_error(self._logits(self.teacher.logits, images), self._logits(made.student, images))
        if error > DOUBTFUL:
            nearest = self._nearest()
            if nearest is None:
                what = "random images are nothing like what this network has seen: how well it follows cannot be told"
                self._warn(f"{what}; --recipe calibrated or default learn images, quantize --images takes your own")
                return made
            made = self._compared(made, made_by, nearest)
            error = made.logits_error
        self._tell(error, on_any)
        return replace(made, logits_error=error)

    def _compared(self, made: Made, made_by: MadeBy, nearest: TuningImages) -> Made:
        """``made``, or the network whose ranges are those of random images where it follows much better on others."""
        first, unseen = nearest.select(slice(CALIBRATION_IMAGES)), nearest.images[CALIBRATION_IMAGES:]
        wanted = self._logits(self.teacher.logits, unseen)

        def error_of(network: Made) -> float:
            return relative_error(wanted, self._logits(network.student, unseen))

        error = error_of(made)
        if error <= DOUBTFUL:
            return replace(made, logits_error=error)
        fine = at_eight_bits(self.plan)
        by_statistics = error if fine == self.plan else error_of(made_by(fine, None))
        other = made_by(fine, first)
        by_images = error_of(other)
        if by_statistics <= CONTRADICTED * by_images:
            return replace(made, logits_error=error)
        off = f"at 8 bits logits are off by {by_images:.2f} of their spread on them, by {by_statistics:.2f} with theirs"
        what = "batch-norm statistics do not fit this network: ranges are taken from random images instead"
        self._warn(f"{what} ({off}); try it on images of your own (evaluate, or quantize --images)")
        if fine != self.plan:
            other = made_by(self.plan, first)
        return replace(other, logits_error=error_of(other), random_images=True)

    def _nearest(self) -> TuningImages | None:
        """Random images whose statistics are the nearest to those of training; None where these are far from it.

        Of any brightness and contrast that pixels can have or, where those are too far, as the network's own mean and
        standard deviation of pixels say.
        """
        for as_stated in (False, True):
            nearest, layers = nearest_pictures(
                self.graph, self._candidates(as_stated), CALIBRATION_IMAGES + COMPARED, self.context.seed
            )
            if least_distance(layers) <= FOREIGN:
                return nearest
        return None

    def _candidates(self, as_stated: bool) -> Iterator[Tensor]:
        few_at_once = (
            random_pixels(self.teacher.spec, AT_ONCE, seed, as_stated) for seed in range(CANDIDATES // AT_ONCE)
        )
        return batches_on_device(few_at_once, self.context.device)

    def _tell(self, error: float, on_any: float) -> None:
        """Warn of a network that follows badly on the nearest of random images, or on some of any kind."""
        if not error <= RUINED:
            off = f"on random images the logits are off by {error:.1f} times their spread"
            self._warn(f"{off}: this network may be ruined")
        elif not on_any <= BLOWN_UP:
            off = f"on some random images the logits are off by {on_any:.0f} times their spread"
            self._warn(f"{off}: images unlike those of training may ruin it, try it on images of your own")
        elif error > WEAK:
            off = f"on random images the logits are off by {error:.2f} of their spread"
            self._warn(f"{off}: --recipe calibrated or default, which learn images, or more bits do better")

    def _warn(self, message: str) -> None:
        self.context.report(Warned(message))

    @torch.no_grad()
    def _logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.cat([network(x) for x in batches_on_device(images.split(AT_ONCE), self.context.device)])
