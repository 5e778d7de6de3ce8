"""Stage 1: the published recipe step by step, convergence, labels, and warnings about the images."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from intraq_cli.events import Warned
from intraq_cli.recipe import Synthesis
from intraq_cli.synthesis.lor import draw_crops
from intraq_cli.synthesis.sil import draw_targets
from intraq_cli.synthesis.synthesizer import _seed_of, batch_sizes, draw_labels
from intraq_cli.zoo import load_recipe
from tests.conftest import SmallNet, trained
from tests.synthesis.runs import SHAPE, synthesize


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
