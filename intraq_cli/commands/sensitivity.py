"""``intraq sensitivity``."""

from typing import TYPE_CHECKING

from intraq_cli.commands import options
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
    act_placement: options.ActPlacement = "inputs",
    recipe: options.Recipe = "default",
    set_: options.Set = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    resume: options.Resume = True,
    batch_size: options.MicroBatch = "auto",
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
    """Say which layers mind few bits: how far the network moves when one of them alone is quantized, without data.

    intraq sensitivity mobilenetv2_100 --widths 2,4,8
    """
    given = options.passed_on(locals())
    from intraq_cli.api import sensitivity as api

    with progress(quiet) as report:
        result = api.sensitivity(**given, report=report)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: "SensitivityResult") -> None:
    """A table, the most sensitive layers at the top."""
    widths = result.widths
    coarsest = widths[0]
    columns = [Column("layer", shrinks=True)]
    for kind in ("W", "A", "but"):  # where there is no room, the finest widths go first
        columns += [Column(f"{kind}{bits}", True, k) for k, bits in enumerate(widths)]
    rows = []
    for layer in sorted(result.layers, key=lambda one: -max(one.weights[coarsest], one.inputs.get(coarsest, 0.0))):
        figures = [table.get(bits) for table in (layer.weights, layer.inputs, layer.spared) for bits in widths]
        rows.append([layer.name, *("float" if figure is None else f"{figure:.4f}" for figure in figures)])
    everything = [f"{result.everything[bits]:.4f}" for bits in widths]
    print_rows(columns, [*rows, ["everything", *("" for _ in (*widths, *widths)), *everything]])
    print(
        f"\n{result.model}, placement {result.act_placement}: divergence from the float network in nats on {result.n}"
    )
    print("synthetic images: one layer's weight (W) or input (A) alone quantized, or everything but this layer (but);")
    print(f"{duration(result.seconds)}")
    print_hint("next: `intraq quantize MODEL --target-size SIZE` chooses bits by layer; `--bits FILE` is for your own")
