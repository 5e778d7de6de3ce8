"""Build the section with the losses of both stages over their steps."""

from collections.abc import Sequence
from functools import partial

from intraq_cli.reports.charts import Axis, Series, xy_chart
from intraq_cli.reports.layout import Figure, Section, Table, panel
from intraq_cli.reports.record import Run, Step
from intraq_cli.reports.scale import number
from intraq_cli.words import NONE

MOST_POINTS = 300
"""Maximum number of points of a line."""
MOST_ROWS = 40
"""Maximum number of rows of a table."""
WORDS = {
    "bns": "batch-norm statistics",
    "sil": "soft inception loss, of the class",
    "mdc": "marginal distance",
    "kl": "divergence from the float network",
    "ce": "cross-entropy",
    "features": "feature distance",
    "total": "weighted sum of all",
}
STAGES = {"synthesis": "Images (stage 1), one batch after another", "tuning": "Tuning (stage 2)"}


def losses_section(run: Run, steps: Sequence[Step]) -> Section | None:
    """Return charts of each loss term of each stage, or only the final losses if no steps were kept."""
    figures = [figure for stage in STAGES if (figure := _figure(stage, [s for s in steps if s.stage == stage]))]
    ends = [
        [stage, term, NONE if value is None else f"{value:.4g}"]
        for stage, terms in run.losses.items()
        for term, value in terms.items()
    ]
    if not figures and not ends:
        return None
    table = Table(["stage", "term", "final value"], ends, texts=(0, 1))
    if not figures:
        return Section("Losses", "Final values.", table=table)
    lead = (
        "Every reported step. Final values are those of the finished images, and means over the last tenth of tuning."
    )
    if run.measured.tuning_undone:
        lead += " Tuning was discarded, so its losses are not those of this checkpoint."
    return Section("Losses", lead, figures, details=[("final values", table)] if ends else [])


def _figure(stage: str, steps: Sequence[Step]) -> Figure | None:
    steps = [step for step in steps if step.losses]
    terms = [term for term in (steps[0].losses if steps else {}) if any(step.losses.get(term) for step in steps)]
    if not terms:
        return None
    panels = []
    for term in sorted(terms, key=lambda term: term != "total"):
        places = [(float(step.step), step.losses[term]) for step in _some(steps, MOST_POINTS) if term in step.losses]
        values = [value for _, value in places]
        y = Axis(
            f"{term}: {WORDS[term]}" if term in WORDS else term,
            log=min(values) > 0 and max(values) > 20 * min(values),
            zero=True,
        )
        draw = partial(xy_chart, [Series(places)], Axis("step", tight=True), y, height=190)
        panels.append(panel(draw, columns=2))
    shown = _some(steps, MOST_ROWS)
    rows = [[str(step.step), *(number(step.losses.get(term, 0.0)) for term in terms)] for step in shown]
    some = f"{len(rows)} of {len(steps)}" if len(rows) < len(steps) else str(len(rows))
    table = Table(["step", *terms], rows, texts=())
    return Figure(panels, table, f"{some} reported steps as a table", columns=2, title=STAGES[stage])


def _some(steps: Sequence[Step], most: int) -> Sequence[Step]:
    """Return at most ``most`` steps, evenly spaced and including the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)]
