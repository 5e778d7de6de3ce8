"""``intraq predict``."""

from dataclasses import asdict

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_json
from intraq_cli.commands.progress import progress
from intraq_cli.words import one_line


def predict(
    target: options.Target,
    images: options.ImageFiles,
    model: options.FloatModel = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Print the five most probable classes of each image.

    intraq predict resnet18-w4a4 cat.jpg
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import predict as api

    with progress(quiet=True) as report:
        results = api.predict(**given, report=report)
    if as_json:
        print_json({"target": target, "images": [asdict(result) for result in results]})
        return
    for result in results:
        print(one_line(result.image))
        for name, share in zip(result.names, result.probabilities, strict=True):
            print(f"  {share:5.1f} %  {one_line(name)}")
