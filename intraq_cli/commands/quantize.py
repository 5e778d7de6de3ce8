"""``intraq quantize``."""

import shlex
from typing import TYPE_CHECKING

from intraq_cli.commands import options
from intraq_cli.commands.export import export_rows
from intraq_cli.commands.printing import duration, file_size, heterogeneity, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress

if TYPE_CHECKING:
    from intraq_cli.results import QuantizationResult


def quantize(
    model: options.Model,
    w: options.WBits = 4,
    a: options.ABits = 4,
    out: options.OutFolder = None,
    recipe: options.Recipe = "default",
    set_: options.Set = None,
    images: options.Images = None,
    act_placement: options.RecipePlacement = None,
    first_last_bits: options.FirstLastBits = None,
    bits: options.Bits = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    export: options.Export = None,
    force: options.Force = False,
    resume: options.Resume = True,
    batch_size: options.MicroBatch = "auto",
    deterministic: options.Deterministic = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize a pretrained classifier without any data, and write a checkpoint folder.

    intraq quantize resnet18 --w 4 --a 4
    """
    given = options.passed_on(locals())
    from intraq_cli.api import quantization as api

    with progress(quiet, recipe) as report:
        result = api.quantize(**given, command=shlex.join(["intraq", *options.TYPED]), report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    elif dry_run:
        where = f"{result.recipe}, {result.act_placement}, on {result.device}"
        print(f"would write {model} at W{w}A{a} ({where}) to {result.path}: about {_sizes(result)}")
    else:
        _print(result)


def _print(result: "QuantizationResult") -> None:
    from intraq_cli.models.source import needs_code

    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in result.stages.items())
    time = f"{duration(result.seconds)} on {result.device}: {stages}"
    exported = export_rows(result.export) if result.export else []
    print_table(result.path, [("size", _sizes(result)), *_on_images(result), *exported, ("time", time)])
    given = options.typed(("", result.path), ("--model", result.model if needs_code(result.model) else None))
    print_hint(f"next: intraq evaluate {given} --data {options.data_for(result.model)}")


def _sizes(result: "QuantizationResult") -> str:
    ratio = result.bytes_float / result.bytes_quantized
    change = f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times larger"
    return f"{file_size(result.bytes_float)} -> {file_size(result.bytes_quantized)} ({change})"


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
