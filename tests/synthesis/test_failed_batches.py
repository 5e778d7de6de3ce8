"""Batches of images that run out of memory, lose finite losses, do not converge, or get no gradient."""

import pytest
import torch

from intraq_cli.errors import DivergedError, ModelError
from intraq_cli.events import StepDone, Warned
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.resume import ResumeStore
from intraq_cli.synthesis.synthesizer import synthesize_images
from tests.conftest import SmallNet, Stop, graph_of, stopping, trained, watch_input
from tests.synthesis.runs import BOUNDS, SHAPE, synthesize


def for_five_images(x):
    """Run out of memory with more than five images."""
    if len(x) > 5:
        raise torch.OutOfMemoryError
    return x


def test_out_of_memory_halves_the_micro_batches_with_the_same_result(network):
    config = Synthesis(num_images=24, batch_size=12, steps=4)
    scarce = watch_input(graph_of(network), for_five_images)
    told = []
    whole = synthesize(network, config)
    made = synthesize_images(scarce, SHAPE, 4, BOUNDS, config, RunContext(report=told.append))
    assert torch.allclose(made.images.float(), whole.images.float(), atol=1e-2)
    assert made.losses["bns"] == pytest.approx(whole.losses["bns"], rel=1e-2)
    smaller = [event.message for event in told if isinstance(event, Warned) and "memory" in event.message]
    assert smaller == [
        f"out of memory with {a} images at once: continuing with {b}, which does not change the result"
        for a, b in ((12, 6), (6, 3))
    ]


class Brittle(SmallNet):
    """Returns infinite logits for inputs beyond a limit."""

    limit = 50.0

    def forward(self, x):
        return super().forward(x) + torch.where(x.abs().amax() > self.limit, torch.inf, 0.0)


def brittle_copy(network, limit):
    made = Brittle().eval().requires_grad_(False)
    made.load_state_dict(network.state_dict())
    made.limit = limit
    return made


def test_non_finite_losses_are_retried_at_lower_rates_and_then_an_error(network):
    told = []
    config, brittle = Synthesis(num_images=8, batch_size=8, steps=3), brittle_copy(network, 0.0)
    with pytest.raises(DivergedError, match="batch 1 are not finite, even at a learning rate of"):
        synthesize_images(graph_of(brittle), SHAPE, 4, BOUNDS, config, RunContext(report=told.append))
    retried = "the losses of batch 1 are not finite: retrying at a quarter of the learning rate"
    assert [event.message for event in told if isinstance(event, Warned)].count(retried) == 2  # the third was the last


def test_retry_at_a_lower_learning_rate_succeeds(network):
    told = []
    config = Synthesis(num_images=8, batch_size=8, steps=12, lr=30.0, clip=False, schedule="plateau", space="pixels")
    made = synthesize(brittle_copy(network, 50.0), config, report=told.append)
    assert made.images.isfinite().all()
    assert (
        1
        <= sum(
            "retrying at a quarter of the learning rate" in event.message for event in told if isinstance(event, Warned)
        )
        <= 2
    )


def stumbling(network):
    """Its graph, with infinite logits at the first step; the two calls before it inspect features and a gradient."""
    calls = []

    def stumble(x):
        calls.append(x)
        return x + (torch.inf if len(calls) == 3 else 0.0)

    return watch_input(graph_of(network), stumble)


def test_interrupted_retry_at_a_lower_learning_rate_is_resumed(network, tmp_path, saved_at_every_step):
    config = Synthesis(num_images=8, batch_size=8, steps=12, compile=False)
    whole = synthesize_images(stumbling(network), SHAPE, 4, BOUNDS, config)
    graph = stumbling(network)
    told = []

    def stop(event):
        told.append(event)
        stopping("synthesis", 11)(event)

    def run(report):
        context = RunContext(report=report, store=ResumeStore(tmp_path))
        return synthesize_images(graph, SHAPE, 4, BOUNDS, config, context)

    with pytest.raises(Stop):
        run(stop)
    assert any(
        isinstance(event, Warned) and "retrying at a quarter of the learning rate" in event.message for event in told
    )
    again = []
    made = run(again.append)
    assert not any(
        isinstance(event, Warned) and "retrying at a quarter of the learning rate" in event.message for event in again
    )
    assert [event.step for event in again if isinstance(event, StepDone)] == [11, 12]
    assert torch.equal(made.images, whole.images)


def test_batch_that_did_not_converge_is_made_again():
    config = Synthesis(num_images=32, batch_size=8, steps=20)
    network = trained(SmallNet())
    whole = synthesize(network, config)
    kept = ResumeStore()
    told = []
    states = {}

    def load(name):
        """Return a second batch of zeros whose loss is a hundred times that of the others."""
        if name != "batch-1":
            return states.get(name)
        return {
            "images": torch.zeros(8, *SHAPE).half(),
            "features": torch.randn(8, 6),
            "predicted": torch.zeros(8, dtype=torch.long),
            "confidences": torch.zeros(8),
            "losses": {"bns": 100 * whole.losses["bns"], "sil": 0.1, "mdc": 0.1, "total": 0.3},
        }

    kept.load = load
    made = synthesize_images(graph_of(network), SHAPE, 4, BOUNDS, config, RunContext(report=told.append, store=kept))
    again = [event.message for event in told if isinstance(event, Warned) and "did not converge" in event.message]
    assert len(again) == 1
    assert again[0].startswith("batch 2 did not converge")
    assert made.images[8:16].abs().max() > 0
    assert made.losses["bns"] < 2 * whole.losses["bns"]


@pytest.mark.parametrize("how", [torch.round, torch.Tensor.detach, lambda x: (x > 0).float()])
def test_network_that_passes_no_gradient_to_its_images_is_rejected(network, how):
    hidden = watch_input(graph_of(network), how)
    with pytest.raises(ModelError, match="no gradient reaches the images") as refused:
        synthesize_images(hidden, SHAPE, 4, BOUNDS, Synthesis(num_images=4, batch_size=4, steps=1))
    assert "instant" in refused.value.hint
