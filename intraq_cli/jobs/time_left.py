"""Estimate of a running job's remaining time, reported once; it times the job's own first steps, and so is free."""

import time

from intraq_cli.events import Event, Noted, Report, StageDone, StageStarted, StepDone
from intraq_cli.recipe import Recipe

TUNING_STEP = 1.6
"""Time of a tuning step relative to a synthesis step with as many images. On CPUs 1.0 (EfficientNet-Lite0, compiled) to
2.5 (ResNet-20, not compiled) were measured, on a GPU 1.7."""
EARLY = 0.05
"""Share of synthesis after which the estimate is reported."""
WORTH_TELLING = 120.0
"""Fewest remaining seconds that are reported."""


def reporting_time_left(report: Report, recipe: Recipe) -> Report:
    """Return a report that also estimates, early in stage 1, the remaining time of the job if it takes minutes.

    Args:
        report: receives every event.
        recipe: recipe of a job that synthesizes its images.
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
