"""What is reported while a batch of images is learned."""

import math

from intraq_cli.errors import check_finite
from intraq_cli.events import Report, StepDone, Warned
from intraq_cli.runtime.extensions import IMAGE_LOSSES, OWN_LOSSES
from intraq_cli.synthesis.objective import Losses, Objective, as_numbers

REPORT_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""


class Progress:
    """Reports one batch's steps, and notices losses that are not finite, or that never did anything."""

    def __init__(self, report: Report, batch: int, batches: int, objective: Objective, before: int = 0) -> None:
        self.report, self.batch, self.batches, self.config = report, batch, batches, objective.config
        self.before = before
        """Images in the batches before this one."""
        self.terms = objective.terms
        self.seen = dict.fromkeys(self.terms, 0.0)

    def step(self, step: int, losses: Losses, images: int) -> None:
        """Of a batch of so many images; looks at the losses now and then."""
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
        """Refuse a loss of the user's that is no number while ours are: images, and all losses, would be none next."""
        if all(math.isfinite(value) for name, value in values.items() if name in OWN_LOSSES and name != "total"):
            for loss in map(IMAGE_LOSSES.__getitem__, self.config.losses):
                if not math.isfinite(values[loss.title]):
                    raise loss.refuse(f"returned {values[loss.title]}")

    def warn_of_idle_parts(self) -> None:
        """A part at zero through a whole batch pulls at nothing; the first batch has no class centres for MDC."""
        for part, largest in self.seen.items():
            if self.terms[part].weight > 0 and largest == 0 and not (part == "mdc" and self.batch == 0):
                name = part.upper() if part in OWN_LOSSES else part
                self.report(Warned(f"{name} stayed at zero for the whole of batch {self.batch + 1}"))
