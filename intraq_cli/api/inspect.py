"""``inspect``: what in a model would be quantized, what stays float and why; and how a checkpoint is quantized."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import nn

from intraq_cli.api.arguments import Model, Numbers, Size, verb
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.choices import Placement
from intraq_cli.errors import MAKE_AGAIN, CheckpointError, check_unused
from intraq_cli.io.untrusted import safe_path, tensor_header
from intraq_cli.jobs.asked_bits import DEFAULT_BITS, check_width
from intraq_cli.jobs.inspection import inspected
from intraq_cli.jobs.targets import read_folder
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import capture_teacher
from intraq_cli.quantization.bit_rules import read_bit_rules, template
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.results import InspectionResult

WITHOUT_RUN = f"{MAKE_AGAIN}; load() works without run.json"
"""Hint for a checkpoint whose manifest is missing or damaged."""


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
    """Show what in a model would be quantized, and what stays float and why; its weights are not downloaded.

    For a checkpoint: show how it is quantized, its size, and the accuracies recorded in it.

    Args:
        model: the teacher, written as in the README, or the ``nn.Module`` itself; or a checkpoint, which has its own
            bits and input.
        w: bits of weights, 2 to 8; default 4.
        a: bits of activations, 2 to 8; default 4.
        act_placement: ``inputs`` (of every layer, the default), ``activations`` (after every ReLU, as in the paper), or
            ``integer`` (all that an integer runtime needs).
        first_last_bits: other bits for the first and the last layer.
        bits: a TOML file with other bits for layers given by name, see :mod:`intraq_cli.quantization.bit_rules`.
        input_size: (C, H, W), if the model does not state it.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        crop_pct: side of the centre crop divided by the resized image's shorter side, if the model does not state it.
        interpolation: ``bicubic``, ``bilinear``, ..., if the model does not state it.

    Raises:
        IntraqError: on any error that the caller can fix, or if the model cannot be quantized.
    """
    for option, width in (("--w", w), ("--a", a), ("--first-last-bits", first_last_bits)):
        check_width(option, width)
    rules = read_bit_rules(bits)
    found = None if isinstance(model, nn.Module) else read_folder(str(model), None, _recorded)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    if found is not None:
        own = {"w": w, "a": a, "act_placement": act_placement, "first_last_bits": first_last_bits, "bits": bits}
        check_unused("a checkpoint has its own", **own, **override.stated)
        return found
    w, a, act_placement = w or DEFAULT_BITS, a or DEFAULT_BITS, act_placement or "inputs"
    source = Source.parse(model, override)
    teacher = source.on_meta()
    captured = capture_teacher(teacher)
    graph = form_of(captured.graph, act_placement)
    plan = plan_quantization(graph, w, a, act_placement, first_last_bits, rules)
    return inspected(source.spelled, teacher, captured, graph, w, a, plan)


def bits_template(found: InspectionResult) -> str:
    """Return the text of a file for ``--bits`` with the current bits of every layer, ready to edit."""
    weights = {layer.name: layer.w_bits for layer in found.layers if layer.w_bits is not None}
    return template(weights, {layer.name: layer.a_bits for layer in found.layers if layer.a_bits is not None})


def _recorded(folder: Path) -> InspectionResult:
    """Return what a checkpoint records about itself.

    Raises:
        CheckpointError: the record is missing or invalid.
    """
    if not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} has no run.json, which describes its layers", WITHOUT_RUN)
    run, weights = read_run(folder), safe_path(folder, "model.safetensors", CheckpointError)
    if not weights.is_file():
        raise CheckpointError(f"{folder} is not a complete checkpoint: model.safetensors is missing", MAKE_AGAIN)
    tensor_header(weights, CheckpointError)  # a truncated file would be described as a smaller checkpoint
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
        raise CheckpointError(f"{folder}/run.json does not describe the layers", WITHOUT_RUN) from error
