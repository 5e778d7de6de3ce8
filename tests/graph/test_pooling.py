"""Pooling in the one form that all runtimes compute alike, with the same values for any windows."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.capture import capture
from intraq_cli.graph.nodes import arguments, calls
from intraq_cli.graph.pooling import AVERAGE_POOLS

POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def settings_of(dims):
    for (kernel, stride), padding, ceil_mode, include in itertools.product(
        ((2, 2), (3, 2), (2, 3)), (0, 1), (False, True), (False, True)
    ):
        plain = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        yield {**plain, "count_include_pad": include}
        if dims > 1 and include:
            yield {**plain, "divisor_override": 5}


class Pools(nn.Module):
    """Average pooling with all settings, in one to three dimensions."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        shaped = {1: x[:, :, 0], 2: x, 3: x[:, None]}[self.dims]
        pooled = [POOLS[self.dims - 1](shaped, **settings) for settings in settings_of(self.dims)]
        return torch.cat([one.flatten(1) for one in pooled], 1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average_pooling_equals_torchs_without_ambiguous_settings(dims):
    torch.manual_seed(0)
    network, image = Pools(dims), torch.randn(2, 4, 7, 6)
    graph = capture(network, image)
    torch.testing.assert_close(graph(image), network(image))
    pools = calls(graph, *AVERAGE_POOLS)
    assert 0 < len(pools) <= len(list(settings_of(dims)))  # equal ones are merged
    for call in pools:
        given = arguments(call)
        assert given.get("divisor_override") is None
        assert not (given["ceil_mode"] and given["count_include_pad"] and juts_out(call))


def juts_out(call):
    given = arguments(call)
    dims = 1 + AVERAGE_POOLS.index(call.target)
    return any(
        (o - 1) * given["stride"][0] + given["kernel_size"][0] > size + 2 * given["padding"][0]
        for size, o in zip(call.args[0].meta["shape"][-dims:], call.meta["shape"][-dims:], strict=True)
    )


@pytest.mark.parametrize(("size", "adaptive_left"), [(1, 0), ((2, 3), 0), ((7, 6), 0), (4, 1)])
def test_adaptive_max_pooling_with_equal_windows_becomes_plain_pooling(size, adaptive_left, random):
    image = torch.randn(2, 4, 14, 6, generator=random)
    network = nn.AdaptiveMaxPool2d(size)
    graph = capture(network, image)
    assert torch.equal(graph(image), network(image))
    assert len(calls(graph, torch.ops.aten.adaptive_max_pool2d.default)) == adaptive_left


def test_adaptive_max_pooling_with_indices_computes_the_same(random):
    class Places(nn.Module):
        def forward(self, x):
            values, places = F.adaptive_max_pool2d(x, 1, return_indices=True)
            return values + places

    image = torch.randn(2, 4, 6, 6, generator=random)
    assert torch.equal(capture(Places(), image)(image), Places()(image))
