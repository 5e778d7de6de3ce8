"""``intraq inspect``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_json, print_table
from intraq_cli.commands.tables import Column, print_rows
from intraq_cli.errors import UsageError
from intraq_cli.words import counted, one_line, sample_of, sizes, told_bits

if TYPE_CHECKING:
    from intraq_cli.results import InspectedLayer, InspectionResult

COLUMNS = (
    Column("layer", shrinks=True),
    Column("kind", rank=3),
    Column("weight", rank=5),
    Column("W"),
    Column("A"),
    Column("parameters", right=True, rank=6),
    Column("multiply-adds", right=True, rank=4),
    Column("adds%", right=True),
    Column("bytes", right=True, rank=2),
    Column("bytes%", right=True, rank=1),
)
SORTED_BY: dict[str, Callable[["InspectedLayer"], Any]] = {
    "name": lambda layer: layer.name,
    "kind": lambda layer: layer.kind,
    "w": lambda layer: layer.w_bits or 32,
    "a": lambda layer: layer.a_bits or 32,
    "parameters": lambda layer: -layer.parameters,
    "multiply-adds": lambda layer: -layer.multiply_adds,
    "bytes": lambda layer: -layer.bytes,
}
"""Sort keys of columns: numbers largest first, but bits fewest first, with float last."""


def inspect(
    model: options.Inspected,
    w: options.WBits = None,
    a: options.ABits = None,
    act_placement: options.ModelPlacement = None,
    first_last_bits: options.FirstLastBits = None,
    bits: options.Bits = None,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    bits_template: options.BitsTemplate = False,
    sort: options.SortLayers = None,
    as_json: options.Json = False,
    quiet: options.QuietTable = False,
) -> None:
    """Show what in a model would be quantized, what stays float and why, or how a checkpoint is quantized.

    The weights of a model are not downloaded.

    intraq inspect mobilenetv2_100
    """
    given = calls.passed_on(locals())
    if bits_template and as_json:
        raise UsageError("--bits-template prints TOML, --json a JSON object", "give only one of them")
    from intraq_cli.api import inspect as api

    found = api.inspect(**given)
    if bits_template:
        print(api.bits_template(found), end="")
    elif as_json:
        print_json(found)
    else:
        _print_layers(sorted(found.layers, key=SORTED_BY[sort]) if sort else found.layers)
        if not quiet:
            print()
            _print(found)


def _print(found: "InspectionResult") -> None:
    kept = [layer for layer in found.layers if layer.float_reason]
    noted = []
    if found.agreement is not None:
        noted.append(("agreement", f"{found.agreement:.1f} % on images held out from tuning"))
    noted += [(f"on {row['data']}", _accuracy(row)) for row in found.evaluations]
    print_table(
        one_line(f"{found.model} at W{found.w_bits}A{found.a_bits}{_others(found)}, placement {found.act_placement}")
        + f"; weights {found.weights}",
        [
            ("quantized", f"{len(found.layers) - len(kept)} of {len(found.layers)} operations that multiply"),
            *[("float", one_line(f"{layer.name}: {layer.float_reason}")) for layer in kept],
            ("parameters", f"{found.parameters:,}, of which {found.parameters_quantized:,} are quantized"),
            ("multiply-adds", f"{found.multiply_adds:,} per image, of which {found.low_bit_share:.1f} % in low bits"),
            ("size", sizes(found.bytes_float, found.bytes_quantized)),
            ("batch norms", f"{found.batch_norms} calls; ReLU-like activations {found.activations}"),
            *[(one_line(name), text) for name, text in noted],
        ],
    )


def _accuracy(row: dict[str, Any]) -> str:
    return f"top-1 {row['top1']:.2f} %, float {row['float_top1']:.2f} %, {row['n']} images{sample_of(row)}"


def _others(found: "InspectionResult") -> str:
    """Return how many layers have weights with other bits than most."""
    count = sum(layer.w_bits not in (None, found.w_bits) for layer in found.layers)
    return f", other weights in {counted(count, 'layer')}" if count else ""


def _print_layers(layers: list["InspectedLayer"]) -> None:
    """Print all operations with multiply-adds, with their shares of the multiply-adds and of the file."""
    adds, size = sum(layer.multiply_adds for layer in layers), sum(layer.bytes for layer in layers)
    print_rows(COLUMNS, [_row(layer, adds, size) for layer in layers])


def _row(layer: "InspectedLayer", adds: int, size: int) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        "x".join(map(str, layer.weight_shape)),
        str(layer.w_bits or "float"),
        told_bits(layer.call_bits, layer.a_bits),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
        f"{100 * layer.multiply_adds / max(1, adds):.1f}",
        f"{layer.bytes:,}",
        f"{100 * layer.bytes / max(1, size):.1f}",
    )
