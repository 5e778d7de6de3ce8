"""``intraq evaluate``."""

from intraq_cli.commands import options
from intraq_cli.commands.printing import duration, print_json, print_table
from intraq_cli.commands.progress import progress


def evaluate(
    target: options.Target,
    data: options.Data,
    model: options.FloatModel = None,
    data_dir: options.DataDir = None,
    split: options.Split = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 100,
    revision: options.Revision = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    save: options.Save = False,
    as_json: options.Json = False,
    quiet: options.QuietShare = False,
) -> None:
    """Measure a checkpoint and its float teacher on the same labelled images.

    intraq evaluate resnet18-w4a4 --data imagenet/val
    """
    given = options.passed_on(locals())
    from intraq_cli.api import evaluation as api

    with progress(quiet) as report:
        result = api.evaluate(**given, report=report)
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
                ("agreement", f"{result.agreement:.2f} % of first choices equal the float model's"),
                ("time", f"{duration(result.seconds)} on {result.device}"),
                *([("saved", f"in {result.saved} and its card")] if result.saved else []),
            ],
        )
