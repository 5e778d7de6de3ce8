"""``intraq synthesize``."""

from pathlib import Path
from typing import Annotated

import typer

from intraq_cli.commands import options
from intraq_cli.commands.printing import duration, heterogeneity, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress


def synthesize(
    model: options.Model,
    n: Annotated[int | None, typer.Option("-n", "--num-images", min=1, help="Images; default: the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="File; default NAME-images.safetensors.", show_default=False)] = None,
    recipe: options.Recipe = "default",
    set_: options.Set = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    weights: options.Weights = None,
    force: options.Force = False,
    resume: options.Resume = True,
    batch_size: options.BatchSize = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn synthetic images from a network alone (stage 1).

    intraq synthesize resnet18 -n 1024 --out images.safetensors
    """
    size, means, stds = options.input_options(input_size, mean, std)
    from intraq_cli.api import synthesis as api

    with progress(quiet, recipe) as report:
        result = api.synthesize(
            model,
            n=n,
            out=out,
            recipe=recipe,
            set=set_ or [],
            device=device,
            seed=seed,
            force=force,
            resume=resume,
            batch_size=options.batch_size(batch_size),
            dry_run=dry_run,
            input_size=size,
            mean=means,
            std=stds,
            weights=weights,
            report=report,
        )
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    elif dry_run:
        shape = "x".join(map(str, result.image_shape))
        print(f"would write {result.n} images of {shape} from {model} to {result.path} on {result.device}")
    else:
        losses = "  ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
        print_table(
            f"{result.path}",
            [
                ("images", f"{result.n} of {'x'.join(map(str, result.image_shape))}"),
                ("losses", losses),
                ("teacher", f"puts {result.teacher_accuracy:.1f} % into the class they were made for"),
                ("heterogeneity", heterogeneity(result.heterogeneity)),
                ("time", f"{duration(result.seconds)} on {result.device}"),
            ],
        )
        given = options.typed(
            ("", model),
            ("--input-size", input_size),
            ("--mean", mean),
            ("--std", std),
            ("--weights", weights),
            ("--images", result.path),
        )
        print_hint(f"next: intraq quantize {given} --w 4 --a 4")
