"""``intraq sensitivity``."""

from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json
from intraq_cli.commands.progress import progress
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.words import duration

if TYPE_CHECKING:
    from intraq_cli.results import SensitivityResult


def sensitivity(
    model: options.Model,
    widths: options.Widths = None,
    n: options.FewImages = None,
    images: options.Images = None,
    out: options.SensitivityFile = None,
    act_placement: options.ModelPlacement = None,
    recipe: options.Recipe = "default",
    set_: options.SynthesisSet = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    resume: options.Resume = True,
    batch_size: options.MicroBatch = None,
    deterministic: options.Deterministic = False,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure, without data, each layer's sensitivity: the network's divergence when that layer alone is quantized.

    intraq sensitivity mobilenetv2_100 --widths 2,4,8
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import sensitivity as api

    with progress(quiet) as report:
        result = api.sensitivity(**given, report=report)
    if as_json:
        print_json(result)
    elif quiet and result.path:
        print(result.path)
    else:
        _print(result)
        if not quiet:
            print_hint(
                "next: `intraq quantize MODEL --target-size SIZE` chooses bits by layer; `--bits FILE` sets your own"
            )


def _print(result: "SensitivityResult") -> None:
    """Print a table for each kind of measurement, with the layers in the same order."""
    coarsest = result.widths[0]
    layers = sorted(result.layers, key=lambda one: -max(one.weights[coarsest], one.inputs.get(coarsest, 0.0)))
    print(f"{result.model}, placement {result.act_placement}, {result.n} images, {duration(result.seconds)}")
    print(f"Divergence from the float network at temperature {result.temperature:g}; 0: no change.")
    print(f"Every table begins with the layer that changes the output most when it alone has {coarsest} bits.")
    print("\nweight of this layer alone quantized")
    _print_figures(result.widths, [(one.name, one.weights) for one in layers])
    print("\ninput of this layer alone quantized")
    _print_figures(result.widths, [(one.name, one.inputs) for one in layers])
    print("\neverything quantized except this layer")
    _print_figures(
        result.widths, [*((one.name, one.spared) for one in layers), ("(no layer float)", result.everything)]
    )


def _print_figures(widths: list[int], rows: list[tuple[str, dict[int, float]]]) -> None:
    """Print divergences by bits; if there is no room, the largest widths are left out first."""
    columns = [Column("layer", shrinks=True), *(Column(f"{bits} bits", True, k) for k, bits in enumerate(widths))]
    print_rows(columns, [[name, *(_figure(by_bits.get(bits)) for bits in widths)] for name, by_bits in rows])


def _figure(divergence: float | None) -> str:
    """Format with two digits; a layer whose input is not quantized has no divergence."""
    return "float" if divergence is None else f"{divergence:.2g}"
