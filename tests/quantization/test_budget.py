"""Bits of every layer under a budget."""

import itertools

import pytest

from intraq_cli.errors import UsageError
from intraq_cli.quantization.bit_rules import NO_RULES, BitRules
from intraq_cli.quantization.budget import bits_within, candidates, chosen_budget, expected_divergence, tied
from intraq_cli.quantization.inspection import bit_operations, inspect_layers, weight_bytes
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.results import LayerSensitivity
from tests.conftest import graph_of

WIDTHS = (2, 4, 8)


def sensitivities(layers):
    return {
        one.layer.name: LayerSensitivity(
            one.layer.name,
            one.layer.kind,
            {bits: (k + 1) / 4**bits for bits in WIDTHS},
            {bits: (5 - k) / 4**bits for bits in WIDTHS},
        )
        for k, one in enumerate(layers)
    }


def choices(network, placement="inputs", rules=NO_RULES):
    graph = form_of(graph_of(network), placement)
    narrow, wide = (plan_quantization(graph, bits, bits, placement, None, rules) for bits in (2, 8))
    layers = candidates(graph, narrow, wide, WIDTHS, WIDTHS)
    return graph, layers, tied(graph, narrow, layers)


@pytest.mark.parametrize("limit", [700, 900, 1100, 1600])
def test_choice_under_a_byte_budget_equals_that_of_brute_force(network, limit):
    _, layers, groups = choices(network)
    found = sensitivities(layers)
    best = min(
        (sum(found[one.layer.name].weights[w] for one, w in zip(layers, bits, strict=True)), bits)
        for bits in itertools.product(WIDTHS, repeat=len(layers))
        if sum(weight_bytes(one.layer.weight_shape, w) for one, w in zip(layers, bits, strict=True)) <= limit
    )
    chosen = bits_within(groups, found, "bytes", limit)
    assert sum(found[name].weights[w] for name, (w, _) in chosen.items()) == pytest.approx(best[0])


def test_bit_operations_of_a_choice_equal_those_of_inspect(network):
    graph, layers, groups = choices(network)
    chosen = bits_within(groups, sensitivities(layers), "bit operations", 900_000)
    rules = BitRules({name: w for name, (w, _) in chosen.items()}, {name: a for name, (_, a) in chosen.items()})
    rows = inspect_layers(graph, plan_quantization(graph, 2, 2, "inputs", None, rules))
    sizes = {one.layer.name: one.size("bit operations", chosen[one.layer.name]) for one in layers}
    assert bit_operations(rows) == sum(sizes.values()) <= 900_000


def test_image_keeps_eight_bits_and_rules_fix_the_bits_of_their_layers(network):
    _, layers, _ = choices(network, rules=BitRules({"conv2": 5}, {"fc": 6}))
    found = {one.layer.name: (one.weights, one.inputs) for one in layers}
    assert found["conv1"] == (WIDTHS, (8,))
    assert found["conv2"] == ((5,), WIDTHS)
    assert found["fc"] == (WIDTHS, (6,))


def test_layers_that_read_the_same_activation_share_its_bits(network):
    # conv2 and conv3 read the same activation
    class Twice(type(network)):
        def forward(self, x):
            x = self.act(self.bn1(self.conv1(x)))
            return self.fc((self.bn2(self.conv2(x)) + self.bn3(self.conv3(x))[..., ::2, ::2]).relu().mean((2, 3)))

    network.__class__ = Twice
    _, layers, groups = choices(network, "activations")
    assert [sorted(one.layer.name for one in group) for group in groups if len(group) > 1] == [["conv2", "conv3"]]
    found = sensitivities(layers)
    for limit in range(0, 3_000_000, 50_000):
        chosen = bits_within(groups, found, "bit operations", limit)
        assert chosen is None or chosen["conv2"][1] == chosen["conv3"][1]
        better = chosen is not None and bits_within(groups, found, "bit operations", limit + 50_000)
        assert not better or expected_divergence(better, found) <= expected_divergence(chosen, found)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (("2MB", None, None), 2_000_000),
        (("1.5 MiB", None, None), 1.5 * 2**20),
        ((4096, None, None), 4096),
        ((None, 3.5, None), 3.5),
        ((None, None, "5G"), 5e9),
        ((None, None, 7e8), 7e8),
    ],
)
def test_budget_spellings_are_parsed(given, limit):
    assert chosen_budget(*given).limit == limit


@pytest.mark.parametrize(
    "given",
    [
        ("2 parsecs", None, None),
        ("-1MB", None, None),
        ("nan", None, None),
        (None, 1.0, None),
        (None, None, "G"),
        (1, 3.0, None),
    ],
)
def test_invalid_budgets_are_usage_errors(given):
    with pytest.raises(UsageError):
        chosen_budget(*given)
