"""Bits under a budget: the choice for every layer that costs least together, found exactly.

A multiple-choice knapsack: each group of layers offers options with a cost (expected divergence) and a size, one of
each is taken, and the sizes may add up to a limit. A Lagrange multiplier gives a lower bound of the cost and a good
answer; a dynamic programme over the groups then looks only at what can still be better than that answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
BISECTIONS = 60
"""Halvings of the interval in which the multiplier lies."""
FEW_STATES = 1000
"""States that the quick search keeps after each group."""


@dataclass(frozen=True)
class Options:
    """What a group offers; none of it is worse than another in both cost and size."""

    costs: Numbers
    """``(n,)``."""
    sizes: Numbers
    """Whole numbers, ``(n,)``, ascending."""
    labels: Numbers
    """``(n,)``: which of the options that were given."""


def cheapest(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """Which option to take of each group.

    Args:
        costs: of each group's options.
        sizes: likewise.
        limit: of the sum of sizes.

    Returns:
        The number of an option for each group; the smallest sum of costs that there is. None: all are too large.
    """
    given = [undominated(c, s) for c, s in zip(costs, sizes, strict=True)]
    order = sorted(range(len(given)), key=lambda k: -given[k].sizes[-1])  # small ones fill what large ones leave
    groups = [given[k] for k in order]
    if sum(group.sizes[0] for group in groups) > limit:
        return None
    price, taken = _by_multiplier(groups, limit)
    for states in (FEW_STATES, None):  # a quick search first: the better its answer, the less is left to look at
        best = sum(group.costs[k] for group, k in zip(groups, taken, strict=True))
        taken = _programme(groups, limit, price, float(best), states) or taken
    labels = {place: int(groups[k].labels[option]) for k, (place, option) in enumerate(zip(order, taken, strict=True))}
    return [labels[place] for place in range(len(given))]


def undominated(costs: Sequence[float] | Numbers, sizes: Sequence[float] | Numbers) -> Options:
    """Those that cost less than all that are not larger."""
    costs, sizes = np.asarray(costs, float), np.asarray(sizes, float)
    order = np.lexsort((costs, sizes))
    least = np.minimum.accumulate(costs[order])
    kept = order[np.concatenate([[True], least[1:] < least[:-1]])]
    return Options(costs[kept], sizes[kept], kept)


def _by_multiplier(groups: list[Options], limit: float) -> tuple[float, list[int]]:
    """The price of a unit of size at which each group's own best choice just fits, and a choice made by it."""

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
    """The most that a unit of size saves."""
    pairs = zip(pairwise(group.costs), pairwise(group.sizes), strict=True)
    return max(((a - b) / (large - small) for (a, b), (small, large) in pairs), default=0.0)


def _filled(groups: list[Options], taken: list[int], room: float) -> list[int]:
    """A choice that fits, made better step by step while there is room."""
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
    """The choice that costs least, if that is less than ``best``; with so many ``states`` only, a good one.

    States are the sums of the groups so far. One is dropped if another is no larger and costs no more, if the rest
    cannot fit, or if the rest at its own best at this ``price`` could not bring it below ``best``.
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
    """``(n + 1,)``: the sum of all values from the k-th on."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
