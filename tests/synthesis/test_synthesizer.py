from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from intraq_cli.errors import DivergedError, ModelError
from intraq_cli.events import StepDone, Warned
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime import extensions
from intraq_cli.runtime.compilation import Accelerated
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.runtime.resume import ResumeStore
from intraq_cli.synthesis.lor import draw_crops
from intraq_cli.synthesis.mdc import ClassCentres
from intraq_cli.synthesis.objective import ForwardWithStatistics, Objective
from intraq_cli.synthesis.sil import draw_targets
from intraq_cli.synthesis.synthesizer import _seed_of, batch_sizes, draw_labels, synthesize_images
from intraq_cli.zoo import load_recipe
from tests.conftest import SmallNet, Stop, graph_of, stopping, trained, watch_input

SHAPE = (3, 8, 8)
BOUNDS = (torch.full((3,), -2.0), torch.full((3,), 2.0))


def synthesize(network, config, seed=0, report=lambda event: None):
    return synthesize_images(graph_of(network), SHAPE, 4, BOUNDS, config, RunContext(seed, report=report))


def inputs_into(inputs, module, args):
    inputs[module] = args[0]


def features_into(features, module, args):
    features.append(args[0])


def test_synthesis_equals_the_paper_recipe_step_by_step(network):
    """Two batches of the published stage 1, with its formulas written out as slow loops."""
    recipe = load_recipe("paper-cifar10").override(
        ["synthesis.num_images=32", "synthesis.batch_size=16", "synthesis.steps=6"]
    )
    made = synthesize(network, recipe.synthesis, seed=7)

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(4, (32,), generator=generator)
    assert torch.equal(made.labels, labels)
    features_so_far, labels_so_far, expected = [], [], []
    for k, y in enumerate(labels.split(16)):
        generator = torch.Generator().manual_seed(_seed_of(7, k, 0, False))
        x = torch.randn(16, *SHAPE, generator=generator).requires_grad_()
        targets = draw_targets(16, 0.95, generator)
        adam = torch.optim.Adam([x], lr=0.5)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.1, patience=50, min_lr=1e-4)

        def look(shown):
            inputs, features = {}, []
            hooks = [m.register_forward_pre_hook(partial(inputs_into, inputs)) for m in norms]
            hooks.append(network.fc.register_forward_pre_hook(partial(features_into, features)))
            p = network(shown).softmax(1)
            for hook in hooks:
                hook.remove()
            return p, inputs, features[0]

        for _ in range(6):
            shown = x
            if torch.rand(1, generator=generator) < 0.5:  # decided once for the whole batch
                crops = draw_crops(16, 8, 8, 0.5, generator)
                flips = torch.rand(16, generator=generator) < 0.5
                rows = [TF.resized_crop(i, *c, [8, 8]) for i, c in zip(x, crops.tolist(), strict=True)]
                shown = torch.stack([TF.hflip(r) if f else r for r, f in zip(rows, flips, strict=True)])
            p, inputs, f = look(shown)
            bns = 0
            for m in norms:
                flat = inputs[m].transpose(0, 1).flatten(1)  # (C, B H W)
                bns = (
                    bns
                    + F.mse_loss(flat.mean(1), m.running_mean)
                    + F.mse_loss(flat.var(1, correction=0), m.running_var)
                )
            bns = bns / len(norms)
            sil = ((p[range(16), y] - targets) ** 2).mean()
            terms = []
            for i in range(16):
                same = [g for g, k in zip(features_so_far, labels_so_far, strict=True) if k == y[i]]
                if same:
                    d = 1 - torch.cosine_similarity(f[i], torch.stack(same).mean(0), dim=0)
                    terms.append(torch.relu(0.05 - d) + torch.relu(d - 0.8))
            mdc = torch.stack(terms).mean() if terms else 0.0
            loss = bns + sil + mdc
            adam.zero_grad()
            loss.backward()
            adam.step()
            plateau.step(loss.item())
        with torch.no_grad():
            _, _, f = look(x)
        features_so_far += list(f)
        labels_so_far += y.tolist()
        expected.append(x.detach())
    assert torch.allclose(made.images.float(), torch.cat(expected), atol=5e-3)


def test_same_seed_gives_the_same_images(network):
    config = Synthesis(num_images=24, batch_size=12, steps=4)
    first, second, other = (synthesize(network, config, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, second.images)
    assert first.losses == second.losses
    assert not torch.equal(first.images, other.images)


class Wild(SmallNet):
    """Layers whose variances differ by a factor of a million, and a dead channel."""

    def forward(self, x):
        return super().forward(x)


def wild_network():
    network = trained(Wild(channels=8))
    network.conv1.weight.data *= 1e3
    network.bn1.running_mean *= 1e3
    network.bn1.running_var *= 1e6
    network.conv2.weight.data[3] = 0
    network.conv2.bias.data[3] = 0
    network.bn2.running_mean[3] = 0
    network.bn2.running_var[3] = 1e-35
    return network


def test_default_loss_converges_with_different_scales_and_a_dead_channel():
    network = wild_network()
    config = Synthesis(num_images=32, batch_size=32, steps=150, sil_weight=0.0, lor_probability=0.0)
    noise = synthesize(network, Synthesis(num_images=32, batch_size=32, steps=1, lr=0.0))
    made = synthesize(network, config)
    assert made.images.isfinite().all()
    assert made.losses["bns"] < 0.15 * noise.losses["bns"]


@pytest.mark.slow
def test_default_schedule_converges_for_every_seed(network):
    """The published schedule stops some batches far from convergence; the default one must not."""
    config = Synthesis(num_images=32, batch_size=32, steps=100)
    ends = [synthesize(network, config, seed).losses["bns"] for seed in range(8)]
    assert max(ends) < 3 * sorted(ends)[4]


def test_pixels_stay_in_bounds_when_clipped(network):
    made = synthesize(network, Synthesis(num_images=16, batch_size=16, steps=5, lr=2.0))
    assert made.images.abs().max() <= 2.0
    free = synthesize(network, Synthesis(num_images=16, batch_size=16, steps=5, lr=2.0, clip=False))
    assert free.images.abs().max() > 2.0


def test_teacher_recognises_the_images_as_their_labels(network):
    made = synthesize(network, Synthesis(num_images=32, batch_size=32, steps=250, bns_weight=0.0))
    assert made.teacher_accuracy > 0.9
    assert made.losses["sil"] < 0.1


def test_loss_that_stays_at_zero_gives_a_warning(network):
    config = Synthesis(num_images=24, batch_size=12, steps=3, lambda_lower=0.0, lambda_upper=2.0)
    events = []
    synthesize(network, config, report=events.append)
    idle = [e.message for e in events if isinstance(e, Warned) and "stayed" in e.message]
    assert idle == ["MDC stayed at zero during all of batch 2"]


@pytest.mark.parametrize(
    ("total", "size", "expected"), [(512, 256, [256, 256]), (1000, 256, [250] * 4), (5, 3, [3, 2])]
)
def test_images_are_divided_into_even_batches(total, size, expected):
    assert batch_sizes(total, size) == expected


def test_balanced_labels_show_every_class_equally_often(random):
    counts = draw_labels(Synthesis(num_images=43, labels="balanced"), 10, random).bincount(minlength=10)
    assert set(counts.tolist()) == {4, 5}


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


def test_classes_without_a_recognised_image_are_reported(network):
    told = []
    config = Synthesis(num_images=16, batch_size=16, steps=2, lr=0.0)
    made = synthesize(network, config, report=told.append)
    logits = network(made.images.float())
    missed = [k for k in range(4) if not (logits[made.labels == k].argmax(1) == k).any()]
    (said,) = [
        event.message
        for event in told
        if isinstance(event, Warned) and "assigns no image to the class it was made for" in event.message
    ]
    assert said.startswith(f"for {len(missed)} of 4 classes, ")
    assert said.endswith(f": {', '.join(map(str, missed))}")


@pytest.mark.parametrize("how", [torch.round, torch.Tensor.detach, lambda x: (x > 0).float()])
def test_network_that_passes_no_gradient_to_its_images_is_rejected(network, how):
    hidden = watch_input(graph_of(network), how)
    with pytest.raises(ModelError, match="no gradient reaches the images") as refused:
        synthesize_images(hidden, SHAPE, 4, BOUNDS, Synthesis(num_images=4, batch_size=4, steps=1))
    assert "instant" in refused.value.hint
