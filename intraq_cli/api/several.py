"""Several of the same: ``evaluate_many`` targets on the same images, ``quantize_seeds`` of one job."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor

from intraq_cli.api.arguments import Model, Models, Text, verb
from intraq_cli.api.evaluation import evaluate
from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.events import Report, Warned, silent
from intraq_cli.models.source import Source
from intraq_cli.results import EvaluationsResult, Failure

Made = TypeVar("Made")


@verb
def evaluate_many(targets: Models, data: Text, *, report: Report = silent, **options: Any) -> EvaluationsResult:
    """Measure several targets, each beside its float teacher, on the same images.

    Targets that were made from the same weights, and take the same input, share the answers of their teacher: they are
    computed once. A target that fails does not lose the others.

    Args:
        targets: each as :func:`intraq_cli.evaluate` takes it.
        data: as for ``evaluate``.
        report: told of every batch, and of what fails.
        options: all others of ``evaluate``.

    Raises:
        IntraqError: all of them fail; it is the first one's error.
    """
    if not targets:
        raise UsageError("no target", "give at least one checkpoint, file or model")
    answers: dict[str, list[Tensor]] = {}

    def one(target: Model) -> Any:
        return evaluate(target, data, answers=answers, report=report, **options)

    return EvaluationsResult(*_each(targets, _spelled, one, report))


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
