"""Progress reports while a batch of images is learned."""

import math

from intraq_cli.errors import check_finite
from intraq_cli.events import Report, StepDone, Warned
from intraq_cli.runtime.extensions import BUILT_IN_LOSSES, IMAGE_LOSSES
from intraq_cli.synthesis.objective import Losses, Objective, as_numbers

REPORT_EVERY = 10
"""Steps between two reads of the losses: each read waits for the device."""


class Progress:
    """Reports the steps of one batch, and checks for losses that are not finite or always zero."""

    def __init__(self, report: Report, batch: int, batches: int, objective: Objective, before: int = 0) -> None:
        self.report, self.batch, self.batches, self.config = report, batch, batches, objective.config
        self.before = before
        """Number of images in the batches before this one."""
        self.terms = objective.terms
        self.seen = dict.fromkeys(self.terms, 0.0)

    def step(self, step: int, losses: Losses, images: int) -> None:
        """Report a step of a batch of ``images`` images, every :data:`REPORT_EVERY` steps."""
        if step % REPORT_EVERY and step != self.config.steps - 1:
            return
        values = as_numbers(losses)
        self._blame(values)
        check_finite(values)
        for part in self.seen:
            self.seen[part] = max(self.seen[part], abs(values[part]))
        done = self.batch * self.config.steps + step + 1
        shown = self.before * self.config.steps + (step + 1) * images
        self.report(StepDone("synthesis", done, shown, f"batch {self.batch + 1}/{self.batches}", values))

    def _blame(self, values: dict[str, float]) -> None:
        """Refuse a user's loss that is NaN or infinite while ours are finite: it would spread to the images."""
        if all(math.isfinite(value) for name, value in values.items() if name in BUILT_IN_LOSSES and name != "total"):
            for loss in map(IMAGE_LOSSES.__getitem__, self.config.losses):
                if not math.isfinite(values[loss.title]):
                    raise loss.refuse(f"returned {values[loss.title]}")

    def warn_of_idle_parts(self) -> None:
        """Warn of losses at zero for the whole batch; except MDC in the first batch, which has no class centres."""
        for part, largest in self.seen.items():
            if self.terms[part].weight > 0 and largest == 0 and not (part == "mdc" and self.batch == 0):
                name = part.upper() if part in BUILT_IN_LOSSES else part
                self.report(Warned(f"{name} stayed at zero during all of batch {self.batch + 1}"))
