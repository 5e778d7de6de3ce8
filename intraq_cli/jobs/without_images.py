"""Quantizing without images: with batch-norm statistics, or with random images if these contradict the statistics.

A network that normalises each image by itself, or calls one module twice, can have activations that no batch norm
describes. The random images whose own statistics are nearest to the stored ones are used. If even these are far from
the training data (X-rays that fill a fiftieth of the pixel range), they neither contradict nor confirm the statistics.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from intraq_cli.events import Warned
from intraq_cli.graph.proof import relative_error
from intraq_cli.jobs.quantized_model import QuantizedModel
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.teacher import Teacher
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES
from intraq_cli.quantization.plan import Plan, at_eight_bits
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import batches_on_device
from intraq_cli.synthesis.nearest_images import least_distance, nearest_images
from intraq_cli.synthesis.tuning_images import TuningImages

AT_ONCE = 16
"""Micro-batch size where time does not matter."""
RUINED = 1.0
"""Above this relative error of logits, a constant would be as good a prediction."""
BLOWN_UP = 10.0
"""Above this relative error of logits on unselected random images, images unlike the training data may ruin the
network: on networks trained on photographs it was at most 0.2 at W8A8."""
DOUBTFUL = 0.05
"""Above this relative error of logits on random images, batch-norm statistics are doubted."""
CONTRADICTED = 2.2
"""Ranges from random images are used if they make the error this many times smaller, with everything at 8 bits. On
networks trained on photographs, whose statistics are right, it was at most 2.1 times smaller. At fewer bits the factor
says little: corrections of coarse weights on random images help on other random images, but not on photographs."""
CANDIDATES = 512
"""Random images from which those nearest to the batch-norm statistics are chosen."""
COMPARED = 64
"""Images among the nearest on which the ranges from statistics and from the other nearest images are compared."""
FOREIGN = 400.0
"""Above this squared deviation from the batch-norm statistics, in the nearest batch norm, images are nothing like the
training data: at most 76 where ranges from random images were better, at least 2,000 where they were worse."""
NOTICEABLE, UNEVEN = 0.1, 2.0
"""Above this relative error of logits on unselected random images, and above this many times that on the nearest ones,
a warning gives both: on networks trained on photographs it was at most 1.3 times as large at W8A8."""
WEAK = 0.3
"""Above this relative error of logits on random images, a warning names ways to a better network."""


Quantize = Callable[[Plan, TuningImages | None], QuantizedModel]
Error = Callable[[QuantizedModel], float]
Unclipped = Callable[[QuantizedModel, Iterable[Tensor]], QuantizedModel]


@dataclass(frozen=True)
class WithoutImages:
    """A choice between two ways to quantize ``teacher``, whose ``graph`` is captured and on the context's device."""

    teacher: Teacher
    graph: fx.GraphModule
    plan: Plan
    context: RunContext

    def better(self, made_by: Quantize, unclipped: Unclipped) -> QuantizedModel:
        """Return the network that better matches the teacher on random images; report doubts about it as warnings.

        Args:
            made_by: quantizes according to a plan, with images or, if None is given, with batch-norm statistics.
            unclipped: widens the ranges of a network from batch-norm statistics if these images show a need.
        """
        made, images = made_by(self.plan, None), random_pixels(self.teacher.spec)
        on_unselected = error_of = self._error_on(images)
        error = on_any = error_of(made)
        if error > DOUBTFUL:
            nearest = self._nearest()
            if nearest is None:
                what = "random images do not resemble this network's training data, so the error is unknown"
                self._warn(f"{what}; use a recipe that learns images (calibrated, default), or --images with your own")
                return made
            error_of = self._error_on(nearest.images[CALIBRATION_IMAGES:])
            made = self._compared(made, made_by, nearest.select(slice(CALIBRATION_IMAGES)), error_of)
            error = made.logits_error
        covering = made if made.random_images else unclipped(made, self._batches(images))
        if covering is not made:
            made, on_any = covering, on_unselected(covering)
            error = on_any if error_of is on_unselected else error_of(made)
        self._tell(error, on_any, made.random_images)
        return replace(made, logits_error=error)

    def _error_on(self, images: Tensor) -> Error:
        wanted = self._logits(self.teacher.logits, images)
        return lambda made: relative_error(wanted, self._logits(made.student, images))

    def _compared(
        self, made: QuantizedModel, made_by: Quantize, first: TuningImages, error_of: Error
    ) -> QuantizedModel:
        """Return ``made``, or the network with ranges from ``first`` if it matches much better on unseen images."""
        error = error_of(made)
        if error <= DOUBTFUL:
            return replace(made, logits_error=error)
        fine = at_eight_bits(self.plan)
        by_statistics = error if fine == self.plan else error_of(made_by(fine, None))
        other = made_by(fine, first)
        by_images = error_of(other)
        if by_statistics <= CONTRADICTED * by_images:
            return replace(made, logits_error=error)
        off = f"at 8 bits, the logits are then off by {by_images:.2f} of their spread instead of {by_statistics:.2f}"
        what = "batch-norm statistics do not fit this network: ranges come from random images instead"
        self._warn(f"{what} ({off}); test it with `intraq evaluate`, or give pictures with --images")
        if fine != self.plan:
            other = made_by(self.plan, first)
            by_images = error_of(other)
        return replace(other, logits_error=by_images, random_images=True)

    def _nearest(self) -> TuningImages | None:
        """Return the random images with statistics nearest to the stored ones; None if even these are far from them.

        First, images of any brightness and contrast in the pixel range are tried. If these are too far off, others are
        drawn around the network's own pixel mean, within a range set by its standard deviation.
        """
        for as_stated in (False, True):
            nearest, layers = nearest_images(
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

    def _tell(self, error: float, on_any: float, random_images: bool) -> None:
        """Warn if the network matches badly on the nearest random images (``error``), or on unselected ones."""
        if not error <= RUINED:
            off = f"on random images the logits are off by {error:.1f} times their spread"
            self._warn(f"{off}: its predictions may be useless")
        elif not on_any <= BLOWN_UP:
            off = f"on some random images the logits are off by {on_any:.0f} times their spread"
            self._warn(f"{off}: images unlike the training data may break it, test it with `intraq evaluate`")
        elif on_any > max(NOTICEABLE, UNEVEN * error) and not random_images:  # else a warning was given already
            off = f"on random images the logits are off by {on_any:.2f} of their spread"
            self._warn(f"{off}, on those most like the training data by {error:.2f}: test it with `intraq evaluate`")
        elif error > WEAK:
            off = f"on random images the logits are off by {error:.2f} of their spread"
            self._warn(f"{off}: use a recipe that learns images (calibrated, default), or more bits")

    def _warn(self, message: str) -> None:
        self.context.report(Warned(message))

    @torch.no_grad()
    def _logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.cat([network(x) for x in self._batches(images)])

    def _batches(self, images: Tensor) -> Iterator[Tensor]:
        return batches_on_device(images.split(AT_ONCE), self.context.device)
