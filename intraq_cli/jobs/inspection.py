"""Describes a teacher as a plan quantizes it: its layers, their bits, its bytes."""

from collections import Counter
from collections.abc import Sequence

from torch import fx

from intraq_cli.checkpoint.layout import checkpoint_bytes
from intraq_cli.graph.batch_norms import batch_norms
from intraq_cli.graph.layers import activation_calls
from intraq_cli.models.teacher import Captured, Teacher, state_tensors
from intraq_cli.quantization.inspection import bit_operations, inspect_layers, low_bit_share
from intraq_cli.quantization.plan import Plan
from intraq_cli.results import InspectedLayer, InspectionResult


def usual_bits(layers: Sequence[InspectedLayer], plan: Plan, w: int, a: int) -> tuple[int, int]:
    """Return the most common bits of weights, and of layer inputs other than the image.

    The requested ``w`` and ``a`` are returned if they are the most common, or so without the first and the last layer.
    """
    read = [*plan.activations.values()]
    if plan.placement == "integer":  # its other values always have 8 bits
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
    model: str, teacher: Teacher, captured: Captured, graph: fx.GraphModule, w: int, a: int, plan: Plan
) -> InspectionResult:
    """Describe a teacher as a plan quantizes it; ``graph`` is its graph in the form of the plan's placement."""
    layers = inspect_layers(graph, plan)
    w, a = usual_bits(layers, plan, w, a)
    return InspectionResult(
        model=model,
        architecture=teacher.architecture,
        weights="not read" if next(teacher.network.parameters()).is_meta else "read",
        input_size=teacher.spec.input_size,
        num_classes=captured.num_classes,
        w_bits=w,
        a_bits=a,
        act_placement=plan.placement,
        batch_norms=len(batch_norms(captured.graph)),
        activations=len(activation_calls(captured.graph)),
        layers=layers,
        parameters=sum(p.numel() for p in teacher.network.parameters()),
        parameters_quantized=sum(layer.parameters for layer in layers if layer.w_bits),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        low_bit_share=low_bit_share(layers),
        bytes_float=sum(one.numel() * one.element_size() for one in state_tensors(teacher.network).values()),
        bytes_quantized=checkpoint_bytes(graph, plan),
        bit_operations=bit_operations(layers),
    )
