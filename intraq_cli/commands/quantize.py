"""``intraq quantize``."""

import math
import shlex
from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.export import export_rows
from intraq_cli.commands.printing import expected, heterogeneity, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.commands.seeds import quantize_seeds
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import decimals, duration, file_size, held_out_images, sizes, stage_times, widths

if TYPE_CHECKING:
    from intraq_cli.results import QuantizationResult

FRONTIER = (
    Column(""),
    *(Column(name, right=True) for name in ("size", "bits per weight", "bit operations", "expected divergence")),
)


def quantize(
    model: options.Model,
    w: options.WWidths = None,
    a: options.AWidths = None,
    target_size: options.TargetSize = None,
    avg_bits: options.AvgBits = None,
    bops: options.Bops = None,
    sensitivity: options.Sensitivities = None,
    out: options.OutFolder = None,
    recipe: options.Recipe = "default",
    set_: options.Set = None,
    images: options.Images = None,
    act_placement: options.RecipePlacement = None,
    first_last_bits: options.FirstLastBits = None,
    bits: options.Bits = None,
    device: options.Device = "auto",
    seed: options.OneSeed = None,
    seeds: options.Seeds = None,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    tensorboard: options.Tensorboard = None,
    export: options.Export = None,
    force: options.ForceFolder = False,
    resume: options.Resume = True,
    batch_size: options.MicroBatch = None,
    deterministic: options.Deterministic = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize a pretrained classifier without any data, and write a checkpoint folder.

    intraq quantize resnet18 --w 4 --a 4

    intraq quantize mobilenetv2_100 --target-size 2MB
    """
    given = {**calls.passed_on(locals()), "command": shlex.join(["intraq", *calls.TYPED])}
    if seeds:
        quantize_seeds(given, as_json, quiet)
        return
    from intraq_cli.api import quantize as api

    with progress(quiet, recipe) as report:
        result = api.quantize(**given, report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    elif dry_run:
        where = f"{result.recipe}, {result.act_placement}, on {result.device}"
        size = sizes(result.bytes_float, result.bytes_quantized)
        print(f"would write {model} at {_bits(result)} ({where}) to {result.path}: {size}")
        print(expected(result.forecast, result.device))
        _print_frontier(result)
    else:
        _print(result)


def _print(result: "QuantizationResult") -> None:
    from intraq_cli.models.source import needs_code

    time = f"{duration(result.seconds)} on {result.device}: {stage_times(result.stages)}"
    exported = export_rows(result.export) if result.export else []
    chosen = [("bits", _bits(result))] if result.frontier else []
    size = sizes(result.bytes_float, result.bytes_quantized)
    print_table(result.path, [("size", size), *chosen, *_on_images(result), *exported, ("time", time)])
    given = calls.typed(("", result.path), ("--model", result.model if needs_code(result.model) else None))
    data = "digits" if result.model == "resnet20_digits" else "FOLDER"
    print_hint(f"next: intraq evaluate {given} --data {data}")


def _bits(result: "QuantizationResult") -> str:
    usual = widths(result.w_bits, result.a_bits, result.mixed_bits)
    if not result.frontier:
        return usual
    (point,) = (point for point in result.frontier if point.chosen)
    operations = f"{point.bit_operations / 1e9:.2f} G bit operations per image"
    return f"{point.avg_bits:.2f} bits per weight, {usual}, {operations}"


def _print_frontier(result: "QuantizationResult") -> None:
    """Print the choices for other budgets; divergences are sums over layers, before tuning."""
    rows = [
        [
            *("*" if point.chosen else "", file_size(point.bytes), f"{point.avg_bits:.2f}"),
            *(f"{point.bit_operations / 1e9:.2f} G", f"{point.divergence:.2g}"),
        ]
        for point in result.frontier
    ]
    if rows:
        print_rows(FRONTIER, rows)


def _off(result: "QuantizationResult") -> str:
    """Return the logits' error on random images, and how far to trust it."""
    if math.isnan(result.logits_error):
        return "unknown: random images do not resemble this network's training data"
    worth = "no guide to real ones, as they set the ranges" if result.random_images else "a rough guide to real ones"
    return f"{decimals(result.logits_error, 3)} of their spread on random images; {worth}"


def _on_images(result: "QuantizationResult") -> list[tuple[str, str]]:
    """Return metrics that need no labels, or the logits' error if there are no images."""
    if result.losses and not result.held_out:
        return [("agreement", "not measured: no image was held out")]
    if not result.held_out:
        source = (
            "random images, as batch-norm statistics do not fit" if result.random_images else "batch-norm statistics"
        )
        return [("images", f"none: ranges and corrections come from {source}"), ("logits off", _off(result))]
    weakest = min(result.sqnr, key=lambda name: result.sqnr[name])
    held_out = held_out_images(result.held_out, result.pictures)
    alike = [] if result.pictures else [("heterogeneity", heterogeneity(result.heterogeneity))]
    return [
        ("agreement", f"{result.agreement:.1f} % with the float model on {held_out}"),
        ("divergence", f"{result.kl:.3f} nats from the float model, on the same images"),
        ("SQNR", f"lowest {result.sqnr[weakest]:.1f} dB, at the output of {weakest}"),
        *alike,
    ]
