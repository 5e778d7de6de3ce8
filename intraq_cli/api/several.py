"""Repeated runs: ``evaluate_many`` for several targets on the same images, ``quantize_seeds`` for several seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from intraq_cli.api.arguments import Model, Models, Text, verb
from intraq_cli.api.evaluate import evaluate
from intraq_cli.api.quantize import quantize
from intraq_cli.checkpoint.config import is_own_checkpoint
from intraq_cli.choices import LARGEST_SEED
from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.evaluation.prediction_cache import PredictionCache, cache_folder
from intraq_cli.events import Report, Warned, silent
from intraq_cli.jobs.preparation import check_free
from intraq_cli.models.source import Source
from intraq_cli.results import EvaluationsResult, Failure, QuantizationResult, SeedsResult

COMPARED = ("agreement", "kl", "logits_error")
"""Values to average over seeds, where they are known; only recipes without images have the last one."""
Made = TypeVar("Made")


@verb
def evaluate_many(
    targets: Models, data: Text, *, cache: bool = True, report: Report = silent, **options: Any
) -> EvaluationsResult:
    """Measure several targets and their float teachers on the same images.

    For targets that were made from the same weights and take the same input, the teacher's predictions are computed
    only once. If a target fails, the results of the others are kept.

    Args:
        targets: list of targets, see :func:`intraq_cli.evaluate`.
        data: as for ``evaluate``.
        cache: as for ``evaluate``.
        report: function that receives an event for every batch and every failure.
        options: all other arguments of ``evaluate``.

    Raises:
        IntraqError: the first error, if all of them fail.
    """
    if not targets:
        raise UsageError("no target is given", "give at least one checkpoint, file or model")
    kept = PredictionCache(cache_folder() if cache else None)

    def one(target: Model) -> Any:
        return evaluate(target, data, kept=kept, report=report, **options)

    return EvaluationsResult(*_each(targets, _spelled, one, report))


@verb
def quantize_seeds(
    model: Model, *, seeds: Sequence[int] = (0, 1, 2), dry_run: bool = False, report: Report = silent, **options: Any
) -> SeedsResult:
    """Quantize once for each seed, each into its own folder: ``OUT-seed0``, ``OUT-seed1``, ...

    If a seed fails, the results of the others are kept. A folder that an earlier call of the same job wrote is reused,
    so that repeating the call continues after an interruption.

    Args:
        model: see :func:`intraq_cli.quantize`.
        seeds: at least one, all different.
        dry_run: check everything, estimate time and memory of one run, and write nothing.
        report: function that receives an event for every step and every failure.
        options: all other arguments of ``quantize`` except ``seed``.

    Raises:
        IntraqError: the first error, if all of them fail.
    """
    if not seeds or len({*seeds}) < len(seeds) or not 0 <= min(seeds) <= max(seeds) <= LARGEST_SEED:
        which = ", ".join(map(str, seeds)) or "none"
        raise UsageError(f"seeds {which}: must be different whole numbers from 0 to {LARGEST_SEED}")
    if "seed" in options:
        raise UsageError("seed and seeds are both given", "leave out one of them")

    board = options.pop("tensorboard", None)

    def one(seed: int) -> QuantizationResult:
        own = None if board is None else Path(board, f"seed{seed}")  # otherwise each would hide the one before it
        given = options | {"seed": seed, "suffix": f"-seed{seed}", "tensorboard": own, "dry_run": dry_run}
        return quantize(model, report=report, **given)

    if dry_run:  # all seeds take the same time
        first = one(seeds[0])
        stem = first.path.removesuffix(f"-seed{seeds[0]}")
        runs = [replace(first, seed=seed, path=f"{stem}-seed{seed}") for seed in seeds]
        for run in runs:
            if not is_own_checkpoint(Path(run.path)):  # otherwise it may be from this same job
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
    """Return the results of ``work`` on all items, and the failures; each failure is reported at once.

    Raises:
        IntraqError: the first item's error, if all fail.
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
