"""``intraq evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from intraq_cli.commands import options
from intraq_cli.commands.printing import duration, print_json, print_table
from intraq_cli.commands.progress import progress


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="Checkpoint folder, Hub id of one, or a float model.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help="Folder of class folders, digits, cifar10, cifar100 or hfds:ORG/NAME.", show_default=False),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The float model, if the checkpoint cannot name it: file.py:factory.", show_default=False),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where cifar10 and cifar100 lie.", show_default=False)] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set on the Hub.", show_default=False)] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure on so many images, drawn by --seed.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 100,
    revision: Annotated[str | None, typer.Option(help="Of a checkpoint on the Hub.", show_default=False)] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    weights: options.Weights = None,
    save: Annotated[bool, typer.Option("--save", help="Write the results into the folder and its card.")] = False,
    as_json: options.Json = False,
    quiet: options.QuietShare = False,
) -> None:
    """Measure a checkpoint and its float teacher on the same labelled images.

    intraq evaluate resnet18-w4a4 --data imagenet/val
    """
    size, means, stds = options.input_options(input_size, mean, std)
    from intraq_cli.api import evaluation as api

    with progress(quiet) as report:
        result = api.evaluate(
            target,
            data,
            model=model,
            data_dir=str(data_dir) if data_dir else None,
            split=split,
            limit=limit,
            batch_size=batch_size,
            device=device,
            seed=seed,
            revision=revision,
            input_size=size,
            mean=means,
            std=stds,
            weights=weights,
            save=save,
            report=report,
        )
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
