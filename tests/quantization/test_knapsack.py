"""The exact choice under a limit, compared with all possible choices."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_cli.quantization.knapsack import cheapest, undominated

OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(max_examples=300, deadline=None)
@given(OPTIONS, st.integers(0, 60))
def test_choice_is_the_best_of_all_that_fit(options, limit):
    costs = [[cost / 7 for cost, _ in group] for group in options]
    sizes = [[size for _, size in group] for group in options]
    choices = itertools.product(*(range(len(group)) for group in options))
    fitting = [c for c in choices if sum(s[k] for s, k in zip(sizes, c, strict=True)) <= limit]
    found = cheapest(costs, sizes, limit)
    if not fitting:
        assert found is None
        return
    assert sum(s[k] for s, k in zip(sizes, found, strict=True)) <= limit
    best = min(sum(c[k] for c, k in zip(costs, choice, strict=True)) for choice in fitting)
    assert sum(c[k] for c, k in zip(costs, found, strict=True)) == pytest.approx(best, abs=1e-12)


def test_each_group_takes_its_cheapest_option_if_everything_fits():
    assert cheapest([[3.0, 1.0, 2.0], [0.5, 0.7]], [[1, 9, 2], [4, 1]], 100) == [1, 0]


def test_large_choice_uses_the_limit_and_no_single_change_improves_it():
    draw = random.Random(0)
    parameters = [int(10 ** draw.uniform(3, 6)) for _ in range(120)]
    costs = [[draw.random() * 4.0 ** (2 - bits) for bits in range(2, 9)] for _ in parameters]
    sizes = [[count * bits // 8 for bits in range(2, 9)] for count in parameters]
    limit = sum(parameters) * 4 // 8
    found = cheapest(costs, sizes, limit)
    used = sum(group[k] for group, k in zip(sizes, found, strict=True))
    assert 0.999 * limit < used <= limit
    # no single change that fits is better
    for cost, size, k in zip(costs, sizes, found, strict=True):
        assert all(cost[j] >= cost[k] for j in range(7) if used - size[k] + size[j] <= limit)


def test_options_dominated_by_others_are_dropped():
    kept = undominated([5, 3, 3, 4, 1], [1, 2, 3, 4, 5])
    assert kept.labels.tolist() == [0, 1, 4]
