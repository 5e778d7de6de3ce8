"""Several of the same: ``evaluate_many`` targets on the same images, ``quantize_seeds`` of one job."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from intraq_cli.api.arguments import Model, Models, Text, verb
from intraq_cli.api.evaluate import evaluate
from intraq_cli.api.quantize import quantize
from intraq_cli.checkpoint.read import is_own_checkpoint
from intraq_cli.choices import LARGEST_SEED
from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.evaluation.teacher_answers import KeptAnswers, answers_folder
from intraq_cli.events import Report, Warned, silent
from intraq_cli.jobs.teachers import check_free
from intraq_cli.models.source import Source
from intraq_cli.results import EvaluationsResult, Failure, QuantizationResult, SeedsResult

COMPARED = ("agreement", "kl", "logits_error")
"""What of several seeds is averaged, where it is known: the last one is of recipes without images."""
Made = TypeVar("Made")


@verb
def evaluate_many(
    targets: Models, data: Text, *, cache: bool = True, report: Report = silent, **options: Any
) -> EvaluationsResult:
    """Measure several targets, each beside its float teacher, on the same images.

    Targets that were made from the same weights, and take the same input, share the answers of their teacher: they are
    computed once. A target that fails does not lose the others.

    Args:
        targets: each as :func:`intraq_cli.evaluate` takes it.
        data: as for ``evaluate``.
        cache: as for ``evaluate``.
        report: told of every batch, and of what fails.
        options: all others of ``evaluate``.

    Raises:
        IntraqError: all of them fail; it is the first one's error.
    """
    if not targets:
        raise UsageError("no target", "give at least one checkpoint, file or model")
    kept = KeptAnswers(answers_folder() if cache else None)

    def one(target: Model) -> Any:
        return evaluate(target, data, kept=kept, report=report, **options)

    return EvaluationsResult(*_each(targets, _spelled, one, report))


@verb
def quantize_seeds(
    model: Model, *, seeds: Sequence[int] = (0, 1, 2), dry_run: bool = False, report: Report = silent, **options: Any
) -> SeedsResult:
    """Quantize once for each seed, each into a folder of its own: ``OUT-seed0``, ``OUT-seed1``, ...

    A seed that fails does not lose the others. One whose folder an earlier call of the same job has made counts as
    made: after an interruption the same call goes on.

    Args:
        model: as :func:`intraq_cli.quantize` takes it.
        seeds: at least one, no two alike.
        dry_run: check everything, try how long one of them will take, write nothing.
        report: told of every step, and of what fails.
        options: all others of ``quantize`` but ``seed``.

    Raises:
        IntraqError: all of them fail; it is the first one's error.
    """
    if not seeds or len({*seeds}) < len(seeds) or not 0 <= min(seeds) <= max(seeds) <= LARGEST_SEED:
        which = ", ".join(map(str, seeds)) or "none"
        raise UsageError(f"seeds {which}: whole numbers from 0 to {LARGEST_SEED}, no two alike")
    if "seed" in options:
        raise UsageError("seed and seeds together", "give one of them")

    board = options.pop("tensorboard", None)

    def one(seed: int) -> QuantizationResult:
        own = None if board is None else Path(board, f"seed{seed}")  # or each would hide the one before
        given = options | {"seed": seed, "suffix": f"-seed{seed}", "tensorboard": own, "dry_run": dry_run}
        return quantize(model, report=report, **given)

    if dry_run:  # the same time for all
        first = one(seeds[0])
        stem = first.path.removesuffix(f"-seed{seeds[0]}")
        runs = [replace(first, seed=seed, path=f"{stem}-seed{seed}") for seed in seeds]
        for run in runs:
            if not is_own_checkpoint(Path(run.path)):  # else it may be of this very job
                check_free(run.path, bool(options.get("force")), is_own_checkpoint)
        return SeedsResult(runs, [], {}, {})
    runs, failed = _each(seeds, lambda seed: f"seed {seed}", one, report)
    figures = {name: [getattr(run, name) for run in runs] for name in COMPARED}
    figures = {name: values for name, values in figures.items() if all(map(math.isfinite, values))}
    means = {name: mean(values) for name, values in figures.items()}
    return SeedsResult(runs, failed, means, {name: (min(values), max(values)) for name, values in figures.items()})


def _each(
    items: Iterable[Any], name: Callable[[Any], str], work: Callable[[Any], Made], report: Report
) -> tuple[list[Made], list[Failure]]:
    """``work`` of every item, and what has failed; what fails is reported at once.

    Raises:
        IntraqError: the first one's, where all fail.
    """
    made: list[Made] = []
    errors: list[tuple[str, IntraqError]] = []
    for item in items:
        try:
            made.append(work(item))
        except IntraqError as error:
            errors.append((name(item), error))
            report(Warned(f"{name(item)} failed: {error.message}"))
    if not made:
        raise errors[0][1]
    return made, [Failure(which, error.code, error.message, error.hint) for which, error in errors]


def _spelled(target: Model) -> str:
    return target if isinstance(target, str) else Source.parse(target).spelled
