"""From a budget to a plan: which bits the layers can have, what they cost, and the best choice."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import fx

from intraq_cli.checkpoint.layout import checkpoint_bytes
from intraq_cli.checkpoint.write import check_storable
from intraq_cli.choices import Placement
from intraq_cli.errors import BudgetError, DataError
from intraq_cli.jobs.asked_bits import AskedBits
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.sensitivities import check_origin, image_count, measured
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.bit_rules import BitRules, pattern_of
from intraq_cli.quantization.budget import Bits, Budget, Candidates, bits_within, candidates, expected_divergence, tied
from intraq_cli.quantization.inspection import bit_operations, inspect_layers, mean_bits, weight_bits
from intraq_cli.quantization.plan import Plan, form_of, plan_quantization
from intraq_cli.quantization.sensitivity import Widths
from intraq_cli.results import FrontierPoint, LayerSensitivity
from intraq_cli.synthesis.tuning_images import TuningImages

POINTS = 5
"""Number of points on the frontier."""
ATTEMPTS = 8
"""Attempts to stay within a limit whose fixed part depends slightly on the choice."""


@dataclass(frozen=True)
class Chosen:
    """The result of the choice."""

    plan: Plan
    frontier: list[FrontierPoint] = field(default_factory=list)
    """Sorted by size; empty without a budget."""
    sensitivities: list[LayerSensitivity] = field(default_factory=list)
    """Sensitivities on which the choice was based."""


@dataclass(frozen=True)
class BitChoice:
    """The choice of bits for every layer.

    Args:
        graph: graph of the float network, in the form of the placement.
        placement: placement of the activation quantizers.
        asked: the allowed bits, and the budget.
    """

    graph: fx.GraphModule
    placement: Placement
    asked: AskedBits

    @cached_property
    def layers(self) -> list[Candidates]:
        """The bits that each layer can have."""
        return candidates(self.graph, self.narrowest, self._widest, self.asked.w, self.asked.a)

    def check(self) -> None:
        """Check, before any work, that the budget can be met and that the given sensitivities are sufficient.

        Raises:
            BudgetError: the narrowest choice exceeds the budget.
            DataError: the sensitivities lack a layer or a width.
        """
        asked, known = self.asked, self.asked.sensitivities
        if asked.budget is not None and self._least > self._limit:
            widths = f"{asked.w[0]}-bit weights" + (f" and {asked.a[0]}-bit activations" if len(asked.a) > 1 else "")
            what = f"{asked.budget} cannot be met: {widths} take {self._told(self._least)}"
            raise BudgetError(
                what, "raise the budget, or fix the bits of fewer layers with --bits and --first-last-bits"
            )
        if known is not None:
            lacking = {*self.widths.weights, *self.widths.inputs} - {*known.widths}
            if lacking or {one.name for one in known.layers} != {one.layer.name for one in self.layers}:
                what = f"widths {', '.join(map(str, sorted(lacking)))}" if lacking else "some of the layers"
                hint = "measure them with `intraq sensitivity MODEL --widths 2,3,4,5,6,7,8 --out FILE`"
                raise DataError(f"the sensitivity file lacks {what}", hint)

    @property
    def widths(self) -> Widths:
        """Widths for which sensitivities are needed."""
        return Widths(self.asked.w, self.asked.a if len(self.asked.a) > 1 else ())

    def chosen(self, sensitivities: Iterable[LayerSensitivity]) -> Chosen:
        """Choose the bits with the lowest divergence, and those for other budgets.

        Args:
            sensitivities: those of every layer, at all widths that it can have.

        Raises:
            BudgetError: no choice stays within the budget.
        """
        found = {one.name: one for one in sensitivities}
        bits = self._within(self._limit, found)
        if bits is None:
            raise BudgetError(f"{self._budget} cannot be met", "raise the budget")
        points = [self._point(bits, found, True)]
        for limit in self._other_limits():
            other = self._within(limit, found)
            if other is not None and other != bits:
                points.append(self._point(other, found, False))
        points.sort(key=lambda one: (one.bytes, one.bit_operations))
        return Chosen(self._planned(bits), points, list(found.values()))

    @cached_property
    def narrowest(self) -> Plan:
        """The fewest bits in every layer whose bits are free to choose."""
        return self._plan(self.asked.w[0], self.asked.a[0], self.asked.rules)

    @cached_property
    def _widest(self) -> Plan:
        return self._plan(self.asked.w[-1], self.asked.a[-1], self.asked.rules)

    @cached_property
    def _least(self) -> float:
        """What the narrowest choice uses of the budget."""
        return self._amount(self.narrowest)

    @cached_property
    def _groups(self) -> list[list[Candidates]]:
        return tied(self.graph, self.narrowest, self.layers)

    @property
    def _budget(self) -> Budget:
        assert self.asked.budget is not None
        return self.asked.budget

    @property
    def _limit(self) -> float:
        """The limit in bytes, in bits of all weights together, or in bit operations."""
        per_weight = sum(one.layer.parameters for one in self.layers) if self._budget.kind == "bits" else 1
        return self._budget.limit * per_weight

    def _amount(self, plan: Plan) -> float:
        """Return what a plan uses of the limit."""
        if self._budget.kind == "bytes":
            return checkpoint_bytes(self.graph, plan)
        rows = inspect_layers(self.graph, plan)
        return bit_operations(rows) if self._budget.kind == "bit operations" else weight_bits(rows)

    def _told(self, amount: float) -> str:
        if self._budget.kind == "bits":
            return f"{amount / sum(one.layer.parameters for one in self.layers):.2f} bits per weight"
        return f"{amount:,.0f} {self._budget.kind}"

    def _within(self, limit: float, sensitivities: dict[str, LayerSensitivity]) -> dict[str, Bits] | None:
        """Return the bits with the lowest divergence within ``limit``; None if no choice stays within it."""
        kind = self._budget.kind

        def taken(bits: dict[str, Bits]) -> int:
            return sum(one.size(kind, bits[one.layer.name]) for one in self.layers)

        least = taken({one.layer.name: (one.weights[0], one.inputs[0]) for one in self.layers})
        room = limit - (self._least - least)
        for attempt in range(ATTEMPTS):  # a file's header grows with the numbers in it
            bits = bits_within(self._groups, sensitivities, kind, room)
            over = 0.0 if bits is None else self._amount(self._planned(bits)) - limit
            if bits is None or over <= 0:
                return bits
            room = max(least, taken(bits) - over * 2**attempt)
        return None

    def _other_limits(self) -> list[float]:
        """Return limits from the narrowest to the widest choice in equal ratios, except the one nearest the limit."""
        low, high = self._least, self._amount(self._widest)
        limits = [low * (high / low) ** (k / (POINTS - 1)) for k in range(POINTS)]
        limits.remove(min(limits, key=lambda one: abs(one - self._limit)))
        return limits

    def _planned(self, bits: dict[str, Bits]) -> Plan:
        weights = {pattern_of(name): w for name, (w, _) in bits.items()}
        free = {one.layer.name for one in self.layers if len(one.inputs) > 1}
        inputs = {pattern_of(name): a for name, (_, a) in bits.items() if a is not None and name in free}
        fixed = self.asked.rules
        rules = BitRules({**fixed.weights, **weights}, {**fixed.activations, **inputs})
        return self._plan(self.asked.w[0], self.asked.a[0], rules)

    def _plan(self, w: int, a: int, rules: BitRules) -> Plan:
        return plan_quantization(self.graph, w, a, self.placement, self.asked.first_last_bits, rules)

    def _point(self, bits: dict[str, Bits], sensitivities: dict[str, LayerSensitivity], chosen: bool) -> FrontierPoint:
        plan = self._planned(bits)
        rows = inspect_layers(self.graph, plan)
        divergence = expected_divergence(bits, sensitivities)
        size = checkpoint_bytes(self.graph, plan)
        return FrontierPoint(size, mean_bits(rows), bit_operations(rows), divergence, chosen)


def bit_choice(teacher: Teacher, captured: Captured, placement: Placement, asked: AskedBits) -> BitChoice:
    """Return the choice of bits for a network, after checking that it can be made.

    Raises:
        ModelError: no checkpoint can hold the network, or a rule matches none of its layers.
        BudgetError: the narrowest choice exceeds the budget.
        DataError: the given sensitivities are of another network, or lack a layer or a width.
    """
    if asked.sensitivities is not None:
        check_origin(asked.sensitivities, teacher, captured, placement)
    choice = BitChoice(form_of(captured.graph, placement), placement, asked)
    choice.check()
    check_storable(choice.graph)
    return choice


def chosen_bits(job: Job, choice: BitChoice, made: TuningImages | None) -> Chosen:
    """Choose the bits of every layer, as a stage of a job; without a budget, return the requested ones.

    Args:
        job: the job of the network.
        choice: the choice to make.
        made: images to measure sensitivities on; None: a few are synthesized if needed.

    Raises:
        BudgetError: no choice stays within the budget.
        DeviceError: out of memory.
    """
    asked = choice.asked
    if asked.budget is None:
        return Chosen(choice.narrowest)
    if asked.sensitivities is not None:
        return choice.chosen(asked.sensitivities.layers)
    images = (made or _few_images(job)).images[: image_count(job.teacher.spec)]
    return choice.chosen(measured(job, choice.graph, choice.placement, images, choice.widths).layers)


def _few_images(job: Job) -> TuningImages:
    count = image_count(job.teacher.spec)
    settings = replace(job.recipe.synthesis, num_images=count, batch_size=count)
    return replace(job, recipe=replace(job.recipe, synthesis=settings)).synthesize()
