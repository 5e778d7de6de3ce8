"""A budget of bytes, bits per weight or bit operations, and the bits of every layer with the least divergence in it."""

from dataclasses import dataclass
from typing import Literal

from torch import fx

from intraq_cli.errors import UsageError
from intraq_cli.graph.layers import quantizable
from intraq_cli.quantization.inspection import FLOAT_BITS, inspect_layers, weight_bytes
from intraq_cli.quantization.knapsack import cheapest, undominated
from intraq_cli.quantization.plan import Plan
from intraq_cli.quantization.sites import activation_sites
from intraq_cli.results import InspectedLayer, LayerSensitivity

SIZES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
COUNTS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

Kind = Literal["bytes", "bits", "bit operations"]
BUDGET_OPTIONS: dict[Kind, str] = {"bytes": "--target-size", "bits": "--avg-bits", "bit operations": "--bops"}
Bits = tuple[int, int | None]
"""Bits of a layer's weight, and of its input; None: float."""


@dataclass(frozen=True)
class Budget:
    """A limit that must not be exceeded."""

    kind: Kind
    """``bytes`` of ``model.safetensors``; mean ``bits`` of a quantized weight; ``bit operations`` for one image: the
    multiply-adds times the bits of both factors."""
    limit: float
    said: str
    """The limit as the user typed it."""

    def __str__(self) -> str:
        return f"{BUDGET_OPTIONS[self.kind]} {self.said}"


@dataclass(frozen=True)
class Candidates:
    """The bits that a layer may have."""

    layer: InspectedLayer
    weights: tuple[int, ...]
    inputs: tuple[int | None, ...]
    free_calls: tuple[bool, ...]
    """For each call, whether the bits of its input are chosen from ``inputs``; else they are those in ``layer``."""

    def size(self, kind: Kind, bits: Bits) -> int:
        """Return how much these bits use of the budget."""
        w, a = bits
        if kind == "bytes":
            return weight_bytes(self.layer.weight_shape, w)
        if kind == "bits":
            return self.layer.parameters * w
        calls = zip(self.layer.call_multiply_adds, self.layer.call_bits, self.free_calls, strict=True)
        return sum(adds * w * ((a if free else fixed) or FLOAT_BITS) for adds, fixed, free in calls)


def chosen_budget(target_size: int | str | None, avg_bits: float | None, bops: float | str | None) -> Budget | None:
    """Return the budget that was given; None if there is none.

    Raises:
        UsageError: several were given, or one is invalid.
    """
    given = {"--target-size": target_size, "--avg-bits": avg_bits, "--bops": bops}
    found = {option: value for option, value in given.items() if value is not None}
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(found)}: only one budget is possible", "give one; the result also states the others"
        )
    if target_size is not None:
        return Budget("bytes", int(_quantity("--target-size", target_size, SIZES, "e.g. 2MB, 500kB")), str(target_size))
    if avg_bits is not None:
        if not 2 <= avg_bits <= 8:
            raise UsageError(f"--avg-bits {avg_bits}: must be from 2 to 8", "e.g. --avg-bits 3.5")
        return Budget("bits", avg_bits, str(avg_bits))
    if bops is not None:
        return Budget("bit operations", _quantity("--bops", bops, COUNTS, "e.g. 5G, 800M"), str(bops))
    return None


def _quantity(option: str, value: float | str, units: dict[str, float], hint: str) -> float:
    """Parse a number with an optional unit after it."""
    text = str(value).strip()
    unit = next((name for name in sorted(units, key=len, reverse=True) if text.endswith(name)), "")
    try:
        found = float(text.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        found = 0.0
    if not 1 <= found < 2**53:
        raise UsageError(f"{option} {value}: must be a number of at least 1, optionally with a unit", hint)
    return found


def candidates(
    graph: fx.GraphModule, narrow: Plan, wide: Plan, w: tuple[int, ...], a: tuple[int, ...]
) -> list[Candidates]:
    """Return the candidates of every layer of the plan; bits that are the same in both plans are fixed.

    Args:
        graph: graph of the float network, in the form of the placement.
        narrow: the plan with the fewest bits to choose from.
        wide: the plan with the most.
        w: bits that weights may have.
        a: bits that layers' inputs may have.
    """
    rows = zip(inspect_layers(graph, narrow), inspect_layers(graph, wide), strict=True)
    return [
        Candidates(
            few,
            w if few.w_bits != many.w_bits else (few.w_bits,),
            a if few.call_bits != many.call_bits else (few.a_bits,),
            tuple(least != most for least, most in zip(few.call_bits, many.call_bits, strict=True)),
        )
        for few, many in rows
        if few.w_bits is not None and many.w_bits is not None
    ]


def tied(graph: fx.GraphModule, plan: Plan, layers: list[Candidates]) -> list[list[Candidates]]:
    """Group layers that read the same quantized value: their inputs must have the same bits."""
    layer_of = {call: layer.name for layer in quantizable(graph) for call in layer.calls}
    sites, free = activation_sites(graph, plan.placement), {one.layer.name for one in layers if len(one.inputs) > 1}
    together = {one.layer.name: frozenset({one.layer.name}) for one in layers}
    for name in plan.activations:
        readers = [layer_of[call] for call in sites[name].layer_calls if layer_of[call] in free]
        merged = frozenset[str]().union(*(together[reader] for reader in readers))
        together |= dict.fromkeys(merged, merged)
    return [[one for one in layers if one.layer.name in group] for group in dict.fromkeys(together.values())]


def bits_within(
    groups: list[list[Candidates]], sensitivities: dict[str, LayerSensitivity], kind: Kind, limit: float
) -> dict[str, Bits] | None:
    """Choose the bits of every layer with the least total cost within the limit; None if even the fewest exceed it.

    The cost is the sum of the divergences that each quantized weight and each quantized input causes alone.

    Args:
        groups: layers whose inputs have the same bits, grouped.
        sensitivities: by layer name.
        kind: what is limited.
        limit: limit of the sum over all layers.
    """
    offers = [_offers(group, sensitivities, kind) for group in groups]
    taken = cheapest(
        [[o.cost for o in offer] for offer in offers], [[o.size for o in offer] for offer in offers], limit
    )
    if taken is None:
        return None
    return {name: bits for offer, k in zip(offers, taken, strict=True) for name, bits in offer[k].bits.items()}


def expected_divergence(bits: dict[str, Bits], sensitivities: dict[str, LayerSensitivity]) -> float:
    """Sum the divergences that each weight and each input causes alone; unknown sensitivities count zero."""
    return sum(_cost(sensitivities[name], one) for name, one in bits.items())


@dataclass(frozen=True)
class _Offer:
    cost: float
    size: int
    bits: dict[str, Bits]


def _offers(group: list[Candidates], sensitivities: dict[str, LayerSensitivity], kind: Kind) -> list[_Offer]:
    """Return all combinations of bits for the layers of a group; dominated ones may be left out."""
    found: list[_Offer] = []
    for a in group[0].inputs:
        combined = [_Offer(0.0, 0, {})]
        for one in group:
            name = one.layer.name
            combined = [
                _Offer(
                    sofar.cost + _cost(sensitivities[name], (w, a)),
                    sofar.size + one.size(kind, (w, a)),
                    {**sofar.bits, name: (w, a)},
                )
                for sofar in combined
                for w in one.weights
            ]
            if len(group) > 1:
                kept = undominated([o.cost for o in combined], [o.size for o in combined])
                combined = [combined[int(k)] for k in kept.labels]
        found += combined
    return found


def _cost(sensitivity: LayerSensitivity, bits: Bits) -> float:
    w, a = bits
    # a width without a measurement is fixed: its cost is the same for every choice, so it can be left out
    return sensitivity.weights.get(w, 0.0) + (0.0 if a is None else sensitivity.inputs.get(a, 0.0))
