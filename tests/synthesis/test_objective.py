"""The total loss and its gradient do not depend on the size of the micro-batches."""

import pytest
import torch

from intraq_cli.recipe import Synthesis
from intraq_cli.runtime import extensions
from intraq_cli.runtime.compilation import Accelerated
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.synthesis.mdc import ClassCentres
from intraq_cli.synthesis.objective import ForwardWithStatistics, Objective
from tests.conftest import graph_of
from tests.synthesis.runs import BOUNDS, SHAPE


def mixed(given):
    """A loss of everything that can be differentiated, also across images."""
    of_layers = sum(layer.mean.square().sum() + layer.var.sqrt().sum() for layer in given.layers)
    return given.pixels.std() + given.logits.logsumexp(1).mean() + given.features.square().mean() + 0.1 * of_layers


@pytest.mark.parametrize("size", [1, 5, 11])
def test_micro_batches_give_the_losses_and_gradient_of_the_whole_batch(network, size, monkeypatch):
    random = torch.Generator().manual_seed(5)
    x, y = torch.randn(12, *SHAPE, generator=random), torch.randint(4, (12,), generator=random)
    centres = ClassCentres(4)
    centres.update(torch.randn(8, 6, generator=random), torch.arange(8) % 4)
    targets = torch.rand(12, generator=random)
    monkeypatch.setitem(extensions.IMAGE_LOSSES, "mixed", extensions.Extension("mixed", mixed, "", None))
    for bns in ("paper", "scale-free"):
        config = Synthesis(bns=bns, lambda_lower=0.5, lambda_upper=0.9, losses={"mixed": 0.7})
        observe = Accelerated(ForwardWithStatistics(graph_of(network), "float32", "cpu"))
        whole, part = (
            Objective(observe, centres, config, BOUNDS, MicroBatches(n)).with_gradient(x, y, targets)
            for n in (None, size)
        )
        assert set(whole[0]) == {"bns", "sil", "mdc", "mixed", "total"}
        for name, one in whole[0].items():
            assert one > 0
            assert torch.allclose(one, part[0][name], rtol=1e-4)
        assert torch.allclose(whole[1], part[1], atol=1e-4 * whole[1].abs().max().item())
