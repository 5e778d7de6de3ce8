"""A budget of bytes, of bits a weight or of bit operations, and the bits of every layer that make the best of it."""

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
"""Of a layer's weight and of what it reads; None: float."""


@dataclass(frozen=True)
class Budget:
    """What may not be exceeded."""

    kind: Kind
    """``bytes`` of ``model.safetensors``; mean ``bits`` of a quantized weight; ``bit operations`` for one image: the
    multiply-adds times the bits of both factors."""
    limit: float
    said: str
    """As it was typed."""

    def __str__(self) -> str:
        return f"{BUDGET_OPTIONS[self.kind]} {self.said}"


@dataclass(frozen=True)
class Candidates:
    """Bits that a layer may have."""

    layer: InspectedLayer
    weights: tuple[int, ...]
    inputs: tuple[int | None, ...]
    free_calls: tuple[bool, ...]
    """Whether each call reads what ``inputs`` are the choice for; the others read what the layer says."""

    def size(self, kind: Kind, bits: Bits) -> int:
        """What counts against the budget."""
        w, a = bits
        if kind == "bytes":
            return weight_bytes(self.layer.weight_shape, w)
        if kind == "bits":
            return self.layer.parameters * w
        calls = zip(self.layer.call_multiply_adds, self.layer.call_bits, self.free_calls, strict=True)
        return sum(adds * w * ((a if free else fixed) or FLOAT_BITS) for adds, fixed, free in calls)


def chosen_budget(target_size: int | str | None, avg_bits: float | None, bops: float | str | None) -> Budget | None:
    """The one that was given.

    Raises:
        UsageError: several were, or one makes no sense.
    """
    given = {"--target-size": target_size, "--avg-bits": avg_bits, "--bops": bops}
    found = {option: value for option, value in given.items() if value is not None}
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(found)}: one budget at a time", "give one, and look at the others in the result"
        )
    if target_size is not None:
        return Budget("bytes", int(_quantity("--target-size", target_size, SIZES, "e.g. 2MB, 500kB")), str(target_size))
    if avg_bits is not None:
        if not 2 <= avg_bits <= 8:
            raise UsageError(f"--avg-bits {avg_bits}: must be 2 to 8", "e.g. --avg-bits 3.5")
        return Budget("bits", avg_bits, str(avg_bits))
    if bops is not None:
        return Budget("bit operations", _quantity("--bops", bops, COUNTS, "e.g. 5G, 800M"), str(bops))
    return None


def _quantity(option: str, value: float | str, units: dict[str, float], hint: str) -> float:
    """A number with a unit behind it."""
    text = str(value).strip()
    unit = next((name for name in sorted(units, key=len, reverse=True) if text.endswith(name)), "")
    try:
        found = float(text.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        found = 0.0
    if not 1 <= found < 2**53:
        raise UsageError(f"{option} {value}: must be a number, with a unit perhaps", hint)
    return found


def candidates(
    graph: fx.GraphModule, narrow: Plan, wide: Plan, w: tuple[int, ...], a: tuple[int, ...]
) -> list[Candidates]:
    """Of every planned layer; bits that are the same in both plans are fixed.

    Args:
        graph: of the float network, in the form of the placement.
        narrow: with the fewest bits that are asked for.
        wide: with the most.
        w: bits that weights may have.
        a: bits that what layers read may have.
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
    """Layers that read the same quantized value, together: they read it with the same bits."""
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
    """Bits of every layer that cost least together; None if the narrowest are too much.

    The cost is the sum of what each weight and each input does to the network's answers alone.

    Args:
        groups: layers whose inputs have the same bits, together.
        sensitivities: by layer.
        kind: what is limited.
        limit: of the sum over all layers.
    """
    offers = [_offers(group, sensitivities, kind) for group in groups]
    taken = cheapest(
        [[o.cost for o in offer] for offer in offers], [[o.size for o in offer] for offer in offers], limit
    )
    if taken is None:
        return None
    return {name: bits for offer, k in zip(offers, taken, strict=True) for name, bits in offer[k].bits.items()}


def expected_divergence(bits: dict[str, Bits], sensitivities: dict[str, LayerSensitivity]) -> float:
    """Sum over all weights and inputs of what each does alone; what no sensitivity is known of counts zero."""
    return sum(_cost(sensitivities[name], one) for name, one in bits.items())


@dataclass(frozen=True)
class _Offer:
    cost: float
    size: int
    bits: dict[str, Bits]


def _offers(group: list[Candidates], sensitivities: dict[str, LayerSensitivity], kind: Kind) -> list[_Offer]:
    """Whatever bits the layers of a group may have together."""
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
                combined = _best(combined)
        found += combined
    return found


def _best(offers: list[_Offer]) -> list[_Offer]:
    kept = undominated([o.cost for o in offers], [o.size for o in offers])
    return [offers[int(k)] for k in kept.labels]


def _cost(sensitivity: LayerSensitivity, bits: Bits) -> float:
    w, a = bits
    # a width that was not tried is one that is fixed: it costs the same whatever the others are
    return sensitivity.weights.get(w, 0.0) + (0.0 if a is None else sensitivity.inputs.get(a, 0.0))
