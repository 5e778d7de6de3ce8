"""``inspect``: what of a model would be quantized, what stays float and why; and how a checkpoint is quantized."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import fx, nn

from intraq_cli.api.arguments import Model, Numbers, Size, check_unused, verb
from intraq_cli.api.loading import find_folder
from intraq_cli.checkpoint.layout import checkpoint_bytes
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import CheckpointError
from intraq_cli.graph.batch_norms import batch_norms
from intraq_cli.graph.layers import activation_calls
from intraq_cli.io.untrusted import safe_path
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Anatomy, Teacher, examine, state_tensors
from intraq_cli.quantization.bit_rules import read_bit_rules, template
from intraq_cli.quantization.inspection import bit_operations, float_bytes, inspect_layers, low_bit_share
from intraq_cli.quantization.plan import Plan, check_width, form_of, plan_quantization
from intraq_cli.recipe import Placement
from intraq_cli.results import InspectedLayer, InspectionResult


@verb
def inspect(
    model: Model,
    *,
    w: int | None = None,
    a: int | None = None,
    act_placement: Placement | None = None,
    first_last_bits: int | None = None,
    bits: str | Path | None = None,
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
) -> InspectionResult:
    """Say what of a model would be quantized, what stays float and why; its weights are not downloaded.

    Of a checkpoint: how it is quantized, its size, and the accuracies noted in it.

    Args:
        model: the teacher, as the README spells it, or the ``nn.Module`` itself; or a checkpoint, whose bits and input
            are its own.
        w: bits of the weights, 2 to 8; default 4.
        a: bits of the activations, 2 to 8; default 4.
        act_placement: ``inputs`` (of every layer, the default), ``activations`` (after every ReLU, the paper's), or
            ``integer`` (all that an integer runtime needs).
        first_last_bits: other bits for the first and the last layer.
        bits: a TOML file with other bits for layers by their names, see :mod:`intraq_cli.quantization.bit_rules`.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, where the model does not say it.
        interpolation: ``bicubic``, ``bilinear``, ..., where the model does not say it.

    Raises:
        IntraqError: anything that the caller can mend, a model that cannot be quantized among it.
    """
    for option, width in (("--w", w), ("--a", a), ("--first-last-bits", first_last_bits)):
        check_width(option, width)
    rules = read_bit_rules(bits)
    found = _checkpoint(model)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    if found is not None:
        own = {"w": w, "a": a, "act_placement": act_placement, "first_last_bits": first_last_bits, "bits": bits}
        check_unused("a checkpoint has its own", **own, **override.stated)
        return found
    w, a, act_placement = w or 4, a or 4, act_placement or "inputs"
    source = Source.parse(model, override)
    teacher = source.on_meta()
    anatomy = examine(teacher)
    graph = form_of(anatomy.graph, act_placement)
    plan = plan_quantization(graph, w, a, act_placement, first_last_bits, rules)
    return inspected(source.spelled, teacher, anatomy, graph, w, a, plan)


def bits_template(found: InspectionResult) -> str:
    """A file for ``--bits`` that gives every layer the bits that it has: to be edited."""
    weights = {layer.name: layer.w_bits for layer in found.layers if layer.w_bits is not None}
    return template(weights, {layer.name: layer.a_bits for layer in found.layers if layer.a_bits is not None})


def usual_bits(layers: Sequence[InspectedLayer], plan: Plan, w: int, a: int) -> tuple[int, int]:
    """Bits of most weights, and of what most layers read but for the image.

    ``w`` and ``a``, which were asked for, where most of all have them, or most of those between the first and the last.
    """
    read = [*plan.activations.values()]
    if plan.placement == "integer":  # whose other values always have 8
        read = [layer.a_bits for layer in layers if layer.a_bits]
    if plan.placement != "activations":
        read = read[1:] or read
    return _usual([*plan.weights.values()], w), _usual(read, a)


def _usual(bits: list[int], stated: int) -> int:
    def most(held: list[int]) -> int:
        counts = Counter(held)
        return max(counts, key=lambda one: (counts[one], one == stated), default=stated)

    return stated if stated == most(bits[1:-1] or bits) else most(bits)


def inspected(
    model: str, teacher: Teacher, anatomy: Anatomy, graph: fx.GraphModule, w: int, a: int, plan: Plan
) -> InspectionResult:
    """What a plan makes of a teacher, whose ``graph`` is in the form of the plan's placement."""
    layers = inspect_layers(graph, plan)
    w, a = usual_bits(layers, plan, w, a)
    return InspectionResult(
        model=model,
        architecture=teacher.architecture,
        weights="not read" if next(teacher.network.parameters()).is_meta else "read",
        input_size=teacher.spec.input_size,
        num_classes=anatomy.num_classes,
        w_bits=w,
        a_bits=a,
        act_placement=plan.placement,
        batch_norms=len(batch_norms(anatomy.graph)),
        activations=len(activation_calls(anatomy.graph)),
        layers=layers,
        parameters=sum(p.numel() for p in teacher.network.parameters()),
        parameters_quantized=sum(layer.parameters for layer in layers if layer.w_bits),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        low_bit_share=low_bit_share(layers),
        bytes_float=float_bytes(state_tensors(teacher.network).values()),
        bytes_quantized=checkpoint_bytes(graph, plan),
        bit_operations=bit_operations(layers),
    )


def _checkpoint(model: Model) -> InspectionResult | None:
    """What a checkpoint says of itself; None if ``model`` names none.

    Raises:
        CheckpointError: it says nothing, or something that makes no sense.
    """
    folder = None if isinstance(model, nn.Module) else find_folder(str(model), None)
    if folder is None:
        return None
    run, weights = read_run(folder), safe_path(folder, "model.safetensors", CheckpointError)
    if not weights.is_file():
        raise CheckpointError(f"{folder} is no whole checkpoint: model.safetensors is missing", "make it again")
    measured = run.get("measured")
    found = {
        **(run["inspection"] if isinstance(run.get("inspection"), dict) else {}),
        "weights": "quantized",
        "bytes_quantized": weights.stat().st_size,
        "agreement": measured.get("agreement") if isinstance(measured, dict) else None,
        "evaluations": run.get("evaluations", []),
    }
    try:
        return TypeAdapter(InspectionResult).validate_python(found)
    except ValidationError as error:
        hint = "load() needs no run.json; make the checkpoint again"
        raise CheckpointError(f"{folder}/run.json does not say what its layers are", hint) from error
