"""``intraq synthesize``."""

from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import expected, heterogeneity, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.words import duration

if TYPE_CHECKING:
    from intraq_cli.results import SynthesisResult


def synthesize(
    model: options.Model,
    n: options.NumImages = None,
    out: options.OutFile = None,
    png: options.Png = None,
    recipe: options.Recipe = "default",
    set_: options.SynthesisSet = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    tensorboard: options.Tensorboard = None,
    force: options.Force = False,
    resume: options.Resume = True,
    batch_size: options.MicroBatch = None,
    deterministic: options.Deterministic = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn synthetic images from nothing but a network (stage 1).

    intraq synthesize resnet18 -n 1024 --out images.safetensors
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import synthesize as api

    with progress(quiet, recipe) as report:
        result = api.synthesize(**given, report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    elif dry_run:
        also = f" and {result.png}" if result.png else ""
        images = f"{result.n} images of {'x'.join(map(str, result.image_shape))}"
        print(f"would write {images} from {model} to {result.path}{also} on {result.device}")
        print(expected(result.forecast, result.device))
    else:
        _print(result)
        same = ("input_size", "mean", "std", "crop_pct", "interpolation", "weights")
        again = [(f"--{name.replace('_', '-')}", given.get(name)) for name in same]
        print_hint(f"next: intraq quantize {calls.typed(('', model), *again, ('--images', result.path))} --w 4 --a 4")


def _print(result: "SynthesisResult") -> None:
    print_table(
        result.path,
        [
            ("images", f"{result.n} of {'x'.join(map(str, result.image_shape))}"),
            ("losses", "  ".join(f"{name} {value:.4f}" for name, value in result.losses.items())),
            ("teacher", f"assigns {result.teacher_accuracy:.1f} % to the class they were made for"),
            ("heterogeneity", heterogeneity(result.heterogeneity)),
            *([("pictures", result.png)] if result.png else []),
            ("time", f"{duration(result.seconds)} on {result.device}"),
        ],
    )
