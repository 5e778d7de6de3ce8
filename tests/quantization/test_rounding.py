import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.errors import RecipeError
from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import calls
from intraq_cli.quantization import rounding
from intraq_cli.quantization.input_moments import damped, input_rows, second_moments
from intraq_cli.quantization.rounding import RoundingInput, round_by_gptq, round_by_squant, rounded
from intraq_cli.runtime import extensions
from intraq_cli.runtime.extensions import Extension
from tests.conftest import graph_of


def test_squant_errors_cancel_within_kernels_and_channels(random):
    weight = torch.randn(8, 16, 3, 3, generator=random) * 2
    rounded = round_by_squant(weight, torch.full((8,), -20.0), torch.full((8,), 20.0))
    error = rounded - weight
    assert error.abs().max() < 1.0  # flipped by one step at most
    assert error.sum((1, 2, 3)).abs().max() <= 0.5 + 1e-4
    assert error.sum((2, 3)).abs().max() <= 1.5  # half a step, and at most one flip to balance the channel
    nearest = weight.round() - weight
    assert nearest.sum((1, 2, 3)).abs().max() > 1.0


def test_squant_errors_cancel_in_depthwise_kernels(random):
    weight = torch.randn(5, 1, 3, 3, generator=random) * 2  # depthwise: the kernel is the channel
    error = round_by_squant(weight, torch.full((5,), -20.0), torch.full((5,), 20.0)) - weight
    assert error.sum((1, 2, 3)).abs().max() <= 0.5 + 1e-4


def test_squant_stays_on_the_grid(random):
    weight = torch.randn(6, 40, generator=random) * 4
    rounded = round_by_squant(weight, torch.full((6,), -3.0), torch.full((6,), 4.0))
    assert (rounded.min(), rounded.max()) == (-3, 4)
    assert torch.equal(rounded, rounded.round())


def layer_call(layer, shape):
    """The call of a layer in a graph, which knows its stride, padding, dilation and groups."""
    (call,) = calls(graph_of(layer.requires_grad_(False), shape), *LAYERS)
    return call


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 4},
        {"padding": "same", "dilation": 2},
        {"stride": (1, 2), "padding": (0, 2), "groups": 8},
    ],
)
def test_input_rows_times_weights_equal_the_convolution(kwargs, random):
    x = torch.randn(3, 8, 9, 11, generator=random)
    groups = kwargs.get("groups", 1)
    weight = torch.randn(16, 8 // groups, 3, 3, generator=random)
    call = layer_call(nn.Conv2d(8, 16, 3, bias=False, **kwargs), (8, 9, 11))
    rows = input_rows(call, x, weight, random)
    out = rows @ weight.view(groups, 16 // groups, -1).transpose(1, 2)  # (G, R, O)
    expected = F.conv2d(x, weight, None, **kwargs)
    found = out.permute(0, 2, 1).reshape(16, 3, *expected.shape[2:]).transpose(0, 1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_input_rows_are_right_for_conv1d_and_linear_layers(random):
    x, weight = torch.randn(2, 4, 9, generator=random), torch.randn(6, 4, 3, generator=random)
    rows = input_rows(layer_call(nn.Conv1d(4, 6, 3, padding=1), (4, 9)), x, weight, random)
    out = (rows[0] @ weight.flatten(1).T).view(2, 9, 6).transpose(1, 2)
    assert torch.allclose(out, F.conv1d(x, weight, padding=1), atol=1e-5)
    x, weight = torch.randn(2, 5, 7, generator=random), torch.randn(3, 7, generator=random)
    assert torch.equal(input_rows(layer_call(nn.Linear(7, 3), (5, 7)), x, weight, random)[0], x.reshape(10, 7))


def test_input_rows_of_a_large_layer_are_a_sample(random):
    x = torch.randn(8, 1, 64, 64, generator=random)
    rows = input_rows(layer_call(nn.Conv2d(1, 1, 1), (1, 64, 64)), x, torch.zeros(1, 1, 1, 1), random)
    assert rows.shape == (1, 4096, 1)
    assert torch.isin(rows.flatten(), x.flatten()).all()


def output_error(rounded, weight, rows):
    return ((rounded - weight) @ rows.transpose(1, 2)).square().mean().item()


def test_gptq_has_a_smaller_output_error_than_rounding_to_nearest(random):
    rows = torch.randn(2, 500, 12, generator=random) @ torch.randn(2, 12, 12, generator=random)
    weight = torch.randn(2, 5, 12, generator=random) * 2
    edges = torch.full((2, 5), -20.0), torch.full((2, 5), 20.0)
    moments = damped(second_moments(rows), rows.shape[1], 0.01)
    rounded = round_by_gptq(weight, moments, *edges)
    assert torch.equal(rounded, rounded.round())
    ours = output_error(rounded, weight, rows)
    assert ours < 0.7 * output_error(weight.round(), weight, rows)


def test_gptq_equals_its_loop_written_out(random, monkeypatch):
    """Column by column; the remaining columns are the least-squares solution for the errors so far."""
    monkeypatch.setattr(rounding, "SWEEPS", 0)
    rows = torch.randn(1, 300, 6, generator=random, dtype=torch.double) @ torch.randn(6, 6, dtype=torch.double)
    weight = torch.randn(1, 3, 6, generator=random, dtype=torch.double) * 2
    h = damped(second_moments(rows), rows.shape[1], 0.01)[0]
    order = h.diagonal().argsort(descending=True)
    w, expected = weight[0].clone(), torch.empty(3, 6, dtype=torch.double)
    for k, column in enumerate(order):
        expected[:, column] = w[:, column].round().clamp(-3, 3)
        error = expected[:, column] - w[:, column]
        left = order[k + 1 :]
        if len(left):
            w[:, left] -= error[:, None] * torch.linalg.solve(h[left][:, left], h[left, column])[None]
    edges = torch.full((1, 3), -3.0), torch.full((1, 3), 3.0)
    assert torch.equal(round_by_gptq(weight, h[None], *edges)[0], expected)


def test_gptq_sweeps_end_at_a_local_optimum_no_worse_than_greedy(random, monkeypatch):
    rows = torch.randn(2, 400, 9, generator=random) @ torch.randn(2, 9, 9, generator=random)
    weight, edges = 3 * torch.randn(2, 6, 9, generator=random), (torch.full((2, 6), -4.0), torch.full((2, 6), 3.0))
    moments = damped(second_moments(rows), rows.shape[1], 0.01)

    def error(codes):
        return ((codes - weight) @ moments * (codes - weight)).sum(2)

    monkeypatch.setattr(rounding, "SWEEPS", 50)
    settled = round_by_gptq(weight, moments, *edges)
    monkeypatch.setattr(rounding, "SWEEPS", 0)
    greedy = round_by_gptq(weight, moments, *edges)
    assert (error(settled) <= error(greedy) * 1.0001).all()
    assert error(settled).sum() < error(greedy).sum()
    for column in range(9):
        for step in (-1, 1):
            moved = settled.clone()
            moved[:, :, column] = (moved[:, :, column] + step).clamp(-4, 3)
            assert (error(settled) <= error(moved) * 1.0001).all()


def test_gptq_rounds_to_nearest_with_uncorrelated_inputs(random):
    weight = torch.randn(1, 4, 8, generator=random) * 2
    rounded = round_by_gptq(weight, torch.eye(8)[None], torch.full((1, 4), -20.0), torch.full((1, 4), 20.0))
    assert torch.equal(rounded, weight.round())


def test_gptq_handles_singular_zero_and_nan_moments(random):
    """Two inputs that are always equal, and one that is always zero: only damping makes a factorisation possible."""
    rows = torch.randn(1, 500, 1, generator=random) * torch.tensor([1.0, 1.0, 0.0])
    weight = 3 * torch.randn(1, 4, 3, generator=random)
    low, high = torch.full((1, 4), -8.0), torch.full((1, 4), 7.0)
    for moments in (second_moments(rows), torch.zeros(1, 3, 3), torch.full((1, 3, 3), float("nan"))):
        rounded = round_by_gptq(weight, moments, low, high)
        assert torch.equal(rounded, rounded.round())
        assert ((rounded >= -8) & (rounded <= 7)).all()
    error = (rounded - weight).abs()
    assert (error <= 0.5001).all()  # of the NaN moments: rounded to nearest
    together = round_by_gptq(weight, second_moments(rows), low, high) - weight
    assert ((together[..., 0] + together[..., 1]).abs() <= 0.6).all()  # the second weight compensates for the first


@pytest.fixture
def rounded_by(monkeypatch, random):
    """Round a weight of shape ``(4, 6)``, in units of steps, by a custom function."""
    weight = 4 * torch.randn(4, 6, generator=random)
    low, high = torch.full((4,), -3.0), torch.tensor([3.0, 4.0, 5.0, 6.0])
    given = RoundingInput(weight, low, high, None)

    def run(function):
        own = Extension("own.py:mine", function, "own.py", None)
        monkeypatch.setitem(extensions.WEIGHT_ROUNDINGS, "own.py:mine", own)
        return rounded("own.py:mine", given)

    run.given = given
    return run


def test_custom_rounding_is_applied_and_converted_to_float32(rounded_by):
    given = rounded_by.given
    low, high = given.low[:, None], given.high[:, None]
    made = rounded_by(lambda one: one.weight.floor().clamp(one.low[:, None], one.high[:, None]))
    assert torch.equal(made, given.weight.floor().clamp(low, high))
    assert torch.equal(rounded_by(lambda one: made.int()), made)
    assert made.dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda one: one.weight, "whole numbers between low and high"),
        (lambda one: one.weight.round(), "whole numbers between low and high"),
        (lambda one: one.weight.round().clamp(-3, 3) * torch.nan, "whole numbers between low and high"),
        (lambda one: one.weight.T, r"tensor of \(6, 4\), not a tensor of \(4, 6\)"),
        (lambda one: [1, 2], "returned list"),
        (lambda one: 1 / 0, "own.py: ZeroDivisionError"),
    ],
)
def test_invalid_results_of_a_custom_rounding_are_recipe_errors(rounded_by, function, says):
    with pytest.raises(RecipeError, match=says):
        rounded_by(function)
