"""How long a job that runs will still take in all, told once, by its own first steps: it costs nothing."""

import time

from intraq_cli.events import Event, Noted, Report, StageDone, StageStarted, StepDone
from intraq_cli.recipe import Recipe

TUNING_STEP = 2.7
"""Time of a tuning step, in steps of synthesis with as many images: between 2.0 and 3.5 were measured on a CPU."""
EARLY = 0.05
"""Share of synthesis after which the whole is told."""
WORTH_TELLING = 120.0
"""Seconds that are left; what takes less is soon over."""


def announcing(report: Report, recipe: Recipe) -> Report:
    """A report that also tells, early in stage 1, what is left in all, where it takes minutes.

    Args:
        report: told of every event.
        recipe: of a job that makes its images and tunes on them.
    """
    first: tuple[float, StepDone] | None = None
    begun, told = StageStarted("", 0), not recipe.tuning.steps

    def watched(event: Event) -> None:
        nonlocal first, begun, told
        report(event)
        match event:
            case StageStarted("synthesis"):
                begun = event
            case StepDone("synthesis") if not told and first is None:
                first = time.perf_counter(), event
            case StepDone("synthesis") if not told and first and event.step - first[1].step >= EARLY * begun.steps:
                told = True
                seconds = time.perf_counter() - first[0]
                here = seconds / (event.step - first[1].step) * (begun.steps - event.step)
                image_step = seconds / max(1, event.images - first[1].images)
                later = TUNING_STEP * image_step * recipe.tuning.steps * recipe.tuning.batch_size
                if here + later >= WORTH_TELLING:
                    report(Noted(f"about {(here + later) / 60:.0f} min left in all"))
            case StageDone("synthesis"):
                told = True

    return watched
