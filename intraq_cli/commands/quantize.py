"""``intraq quantize``."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_cli.commands import options
from intraq_cli.commands.printing import duration, file_size, heterogeneity, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress

if TYPE_CHECKING:
    from intraq_cli.results import QuantizationResult


def quantize(
    model: options.Model,
    w: options.WBits = 4,
    a: options.ABits = 4,
    out: Annotated[Path | None, typer.Option(help="Folder; default NAME-wWaA.", show_default=False)] = None,
    recipe: options.Recipe = "default",
    set_: options.Set = None,
    images: Annotated[
        Path | None, typer.Option(help="What `synthesize` wrote; no images are made then.", show_default=False)
    ] = None,
    act_placement: options.ActPlacement = "inputs",
    first_last_bits: options.FirstLastBits = None,
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
    """Quantize a pretrained classifier without any data, and write a checkpoint folder.

    intraq quantize resnet18 --w 4 --a 4
    """
    size, means, stds = options.input_options(input_size, mean, std)
    from intraq_cli.api import quantization as api
    from intraq_cli.models.source import is_factory

    with progress(quiet, recipe) as report:
        result = api.quantize(
            model,
            w=w,
            a=a,
            out=out,
            recipe=recipe,
            set=set_ or [],
            images=images,
            act_placement=act_placement,
            first_last_bits=first_last_bits,
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
            command=shlex.join(["intraq", *sys.argv[1:]]),
            report=report,
        )
    ratio = result.bytes_float / result.bytes_quantized
    change = f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times larger"
    sizes = f"{file_size(result.bytes_float)} -> {file_size(result.bytes_quantized)} ({change})"
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    elif dry_run:
        print(
            f"would write {model} at W{w}A{a} ({result.recipe}, {act_placement}, on {result.device}) "
            f"to {result.path}: about {sizes}"
        )
    else:
        stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in result.stages.items())
        print_table(
            f"{result.path}",
            [
                ("size", sizes),
                *_on_images(result),
                ("time", f"{duration(result.seconds)} on {result.device}: {stages}"),
            ],
        )
        given = options.typed(("", result.path), ("--model", model if is_factory(model) else None))
        print_hint(f"next: intraq evaluate {given} --data {options.data_for(model)}")


def _on_images(result: "QuantizationResult") -> list[tuple[str, str]]:
    """Figures that need no real data, where there are synthetic images."""
    if not result.held_out:
        return [("images", "none: ranges and corrections come from batch-norm statistics")]
    weakest = min(result.sqnr, key=lambda name: result.sqnr[name])
    return [
        ("agreement", f"{result.agreement:.1f} % with the float model on {result.held_out} held-out synthetic images"),
        ("divergence", f"{result.kl:.3f} nats from the float model, on the same images"),
        ("noise", f"largest behind {weakest}: {result.sqnr[weakest]:.1f} dB under the signal"),
        ("heterogeneity", heterogeneity(result.heterogeneity)),
    ]
