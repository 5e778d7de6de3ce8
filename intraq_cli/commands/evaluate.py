"""``intraq evaluate``."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import duration

if TYPE_CHECKING:
    from intraq_cli.results import EvaluationsResult

COLUMNS = (
    Column("target", shrinks=True),
    Column("top-1", right=True),
    Column("float", right=True),
    Column("drop", right=True),
    Column("top-5", right=True, rank=2),
    Column("float top-5", right=True, rank=3),
    Column("agreement", right=True, rank=1),
    Column("time", right=True, rank=4),
)


def evaluate(
    targets: options.Targets,
    data: options.Data,
    model: options.FloatModel = None,
    data_dir: options.DataDir = None,
    split: options.Split = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 100,
    revision: options.Revision = None,
    device: options.Device = "auto",
    seed: options.SampleSeed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    save: options.Save = False,
    cache: options.Cache = True,
    as_json: options.Json = False,
    quiet: options.QuietShare = False,
) -> None:
    """Measure the accuracy of checkpoints, and of their float teachers, on the same labelled images.

    intraq evaluate resnet18-w4a4 --data imagenet/val
    """
    given = calls.passed_on(locals())
    if len(targets) > 1:
        _several(given, as_json, quiet)
        return
    from intraq_cli.api import evaluate as api

    (target,) = given.pop("targets")
    with progress(quiet) as report:
        result = api.evaluate(target, **given, report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(f"{result.top1:.2f}")
    else:
        drop = result.float_top1 - result.top1
        print_table(
            f"{target} on {result.data}, {result.n} images",
            [
                ("top-1", f"{result.top1:.2f} %, float {result.float_top1:.2f} % (drop {drop:.2f} points)"),
                ("top-5", f"{result.top5:.2f} %, float {result.float_top5:.2f} %"),
                ("agreement", f"{result.agreement:.2f} % of top-1 predictions equal the float model's"),
                ("time", f"{duration(result.seconds)} on {result.device}"),
                *([("saved", f"in {result.saved} and its card")] if result.saved else []),
            ],
        )


def _several(given: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Measure several targets; exit with code 1 if any of them failed."""
    from intraq_cli.api import several as api

    with progress(quiet) as report:
        found = api.evaluate_many(**given, report=report)
    if as_json:
        print_json(found)
    elif quiet:
        print("\n".join(_top1_of_each(given["targets"], found)))
    else:
        _print(found)
    if found.failed:
        raise typer.Exit(1)


def _top1_of_each(targets: Sequence[str], found: "EvaluationsResult") -> Iterator[str]:
    """Yield top-1 accuracy or ``failed`` for each target, in the given order."""
    results, failed = iter(found.results), [failure.name for failure in found.failed]
    for target in targets:
        if failed[:1] == [target]:
            failed.pop(0)
            yield "failed"
        else:
            yield f"{next(results).top1:.2f}"


def _print(found: "EvaluationsResult") -> None:
    first = found.results[0]
    print(f"{first.data}, {first.n} images, in percent, on {first.device}")
    rows = []
    for one in found.results:
        shares = (one.top1, one.float_top1, one.float_top1 - one.top1, one.top5, one.float_top5, one.agreement)
        rows.append([one.target, *(f"{share:.2f}" for share in shares), duration(one.seconds)])
    print_rows(COLUMNS, rows + [[failure.name, *("failed" for _ in COLUMNS[1:])] for failure in found.failed])
