"""The bits of every layer with the least total cost under a budget, found exactly.

A multiple-choice knapsack: each group of layers has options with a cost (expected divergence) and a size; one option of
each group is taken, and the sum of sizes may not exceed a limit. A Lagrange multiplier gives a lower bound of the cost
and a good solution; dynamic programming over the groups then explores only states that can still improve on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
BISECTIONS = 60
"""Number of bisections of the interval that contains the multiplier."""
FEW_STATES = 1000
"""Number of states that the quick search keeps after each group."""


@dataclass(frozen=True)
class Options:
    """The options of a group, without those that another dominates in both cost and size."""

    costs: Numbers
    """``(n,)``."""
    sizes: Numbers
    """Integers, ``(n,)``, ascending."""
    labels: Numbers
    """``(n,)``: indices of the given options."""


def cheapest(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """Choose one option of each group so that the sum of costs is the least possible.

    Args:
        costs: costs of each group's options.
        sizes: their sizes.
        limit: limit of the sum of sizes.

    Returns:
        The index of the chosen option for each group; None if no choice fits.
    """
    given = [undominated(c, s) for c, s in zip(costs, sizes, strict=True)]
    order = sorted(range(len(given)), key=lambda k: -given[k].sizes[-1])  # large groups first, small ones fill the rest
    groups = [given[k] for k in order]
    if sum(group.sizes[0] for group in groups) > limit:
        return None
    price, taken = _by_multiplier(groups, limit)
    for states in (FEW_STATES, None):  # a quick search first: the better its solution, the fewer states remain
        best = sum(group.costs[k] for group, k in zip(groups, taken, strict=True))
        taken = _programme(groups, limit, price, float(best), states) or taken
    labels = {place: int(groups[k].labels[option]) for k, (place, option) in enumerate(zip(order, taken, strict=True))}
    return [labels[place] for place in range(len(given))]


def undominated(costs: Sequence[float] | Numbers, sizes: Sequence[float] | Numbers) -> Options:
    """Return the options that cost less than every other option of at most their size."""
    costs, sizes = np.asarray(costs, float), np.asarray(sizes, float)
    order = np.lexsort((costs, sizes))
    least = np.minimum.accumulate(costs[order])
    kept = order[np.concatenate([[True], least[1:] < least[:-1]])]
    return Options(costs[kept], sizes[kept], kept)


def _by_multiplier(groups: list[Options], limit: float) -> tuple[float, list[int]]:
    """Find the price per unit of size at which the groups' separate optima just fit, and a choice based on it."""

    def chosen(price: float) -> list[int]:
        return [int(np.argmin(group.costs + price * group.sizes)) for group in groups]

    def size(taken: list[int]) -> float:
        return float(sum(group.sizes[k] for group, k in zip(groups, taken, strict=True)))

    low, high = 0.0, 1.0 + max((_steepest(group) for group in groups), default=0.0)
    if size(chosen(low)) <= limit:
        return low, chosen(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if size(chosen(middle)) <= limit else (middle, high)
    return high, _filled(groups, chosen(high), limit - size(chosen(high)))


def _steepest(group: Options) -> float:
    """Return the largest cost reduction per unit of size."""
    pairs = zip(pairwise(group.costs), pairwise(group.sizes), strict=True)
    return max(((a - b) / (large - small) for (a, b), (small, large) in pairs), default=0.0)


def _filled(groups: list[Options], taken: list[int], room: float) -> list[int]:
    """Improve a choice that fits greedily while there is room."""
    taken = list(taken)
    while True:
        gains = [
            (group.costs[k] - group.costs[j], number, j)
            for number, (group, k) in enumerate(zip(groups, taken, strict=True))
            for j in range(k + 1, len(group.costs))
            if group.sizes[j] - group.sizes[k] <= room
        ]
        if not gains:
            return taken
        _, number, j = max(gains)
        room -= groups[number].sizes[j] - groups[number].sizes[taken[number]]
        taken[number] = j


def _programme(groups: list[Options], limit: float, price: float, best: float, states: int | None) -> list[int] | None:
    """Find the choice of least cost if below ``best``; with a limit of ``states``, a good choice below ``best``.

    States are the sums of cost and size of the groups so far. A state is dropped if another one is no larger and costs
    no more, if the remaining groups cannot fit, or if its lower bound at this ``price`` is not below ``best``.
    """
    priced = [group.costs + price * group.sizes for group in groups]
    smallest_rest = _sums_behind([group.sizes[0] for group in groups])
    bound_rest = _sums_behind([values.min() for values in priced])
    costs, sizes = np.zeros(1), np.zeros(1)
    origins: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for number, group in enumerate(groups):
        new_costs = (costs[:, None] + group.costs).ravel()
        new_sizes = (sizes[:, None] + group.sizes).ravel()
        bound = new_costs + price * new_sizes + bound_rest[number + 1] - price * limit
        kept = np.flatnonzero((new_sizes + smallest_rest[number + 1] <= limit) & (bound < best))
        kept = kept[undominated(new_costs[kept], new_sizes[kept]).labels] if len(kept) else kept
        if states is not None and len(kept) > states:
            kept = kept[np.argpartition(bound[kept], states)[:states]]
        if not len(kept):
            return None
        origins.append(np.divmod(kept, len(group.costs)))
        costs, sizes = new_costs[kept], new_sizes[kept]
    state, taken = int(np.argmin(costs)), list[int]()
    if not costs[state] < best:
        return None
    for before, option in reversed(origins):
        taken.append(int(option[state]))
        state = int(before[state])
    return taken[::-1]


def _sums_behind(values: list[float]) -> Numbers:
    """Compute the suffix sums, ``(n + 1,)``: item k is the sum of all values from the k-th on."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
