"""Tuning: the published recipe step by step, its results, and how it recovers from divergence and collapse."""

import copy
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from intraq_cli.errors import CollapsedError, DivergedError
from intraq_cli.events import Noted, StepDone, Warned
from intraq_cli.quantization.divergence import kl_at_temperature
from intraq_cli.quantization.ema_ranges import warm_up
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.recipe import Quantization, Tuning
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.resume import ResumeStore
from intraq_cli.tuning.batches import AugmentedBatches
from intraq_cli.tuning.distillation import ignorance
from intraq_cli.tuning.tuner import SOUND, _Collapse, tune
from intraq_cli.zoo import load_recipe
from tests.conftest import Stop, needs_compiler, stopping, student_of, watch_input
from tests.tuning.runs import default_student, images_and_labels


def min_max_quantized(weight, bits):
    """Per output channel, asymmetric, range = min/max of the current weight, straight-through gradient."""
    rows = weight.detach().flatten(1)
    low, high = rows.min(1).values.clamp(max=0), rows.max(1).values.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    view = (-1,) + (1,) * (weight.dim() - 1)
    zero = (-low / scale).round().view(view)
    scale = scale.view(view)
    q = ((weight.detach() / scale).round() + zero).clamp(0, 2**bits - 1)
    return weight + ((q - zero) * scale - weight).detach()


def test_tuning_equals_the_paper_recipe_step_by_step(network, graph):
    """Warm-up and tuning as published, written out for this network."""
    bits = 4
    recipe = load_recipe("paper-cifar10").override(
        [
            "quantization.ema_steps=5",
            "tuning.steps=8",
            "tuning.batch_size=16",
            "tuning.lr=0.01",
            "tuning.lr_steps=[3,6]",
        ]
    )
    images, labels = images_and_labels()
    student = student_of(graph, bits, bits, "activations")
    for name, weight in student.weights.items():
        student.set_weight(name, WeightQuantizer(weight(), bits, recipe.quantization))
    warm_up(student, [x for x, _ in islice(AugmentedBatches(images, labels, 16, 0.5, 3), 5)], recipe.quantization)
    tune(student, graph, images, labels, recipe.tuning, RunContext(seed=3))

    plain = copy.deepcopy(network).requires_grad_(True)
    ema = [[0.0, 0.0] for _ in range(3)]

    def run(x, weight_up):
        def act(k, t):
            t = F.relu(t)
            if weight_up:
                for j, edge in enumerate((t.min(), t.max())):
                    ema[k][j] = 0.9 * ema[k][j] + 0.1 * edge.item()
            low, high = (min(ema[k][0] / correction, 0.0), ema[k][1] / correction)
            scale = (high - low) / (2**bits - 1)
            zero = round(-low / scale)
            top = 2**bits - 1 - zero
            q = (t / scale).round().detach()
            through = t + (q * scale - t).detach()
            return torch.where(q > top, top * scale, torch.where(q < -zero, -zero * scale, through))

        n = plain
        w = {name: min_max_quantized(n.get_submodule(name).weight, bits) for name in student.weights}
        h = act(0, n.bn1(F.conv2d(x, w["conv1"], padding=1)))
        h = act(1, n.bn2(F.conv2d(h, w["conv2"], n.conv2.bias, 2, 1)))
        h = act(2, h + n.bn3(F.conv2d(h, w["conv3"], None, 1, 1, groups=2)))
        return F.linear(h.mean((2, 3)), w["fc"], n.fc.bias)

    with torch.no_grad():
        for step, (x, _) in enumerate(islice(AugmentedBatches(images, labels, 16, 0.5, 3), 5)):
            correction = 1 - 0.9 ** (step + 1)
            run(x, weight_up=True)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for step, (x, y) in enumerate(islice(AugmentedBatches(images, labels, 16, 0.5, 3), 8)):
        for group in sgd.param_groups:
            group["lr"] = 0.01 * 0.1 ** ((step >= 3) + (step >= 6))
        logits, target = run(x, weight_up=False), network(x)
        p, log_q = (target / 20).softmax(1), (logits / 20).log_softmax(1)
        loss = F.cross_entropy(logits, y) + 20 * 20**2 * (p * (p.log() - log_q)).sum(1).mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for name, quantizer in student.latent.items():
        start = network.get_submodule(name).weight
        moved = plain.get_submodule(name).weight - start
        assert moved.abs().max() > 1e-3
        assert torch.allclose(quantizer.weight - start, moved, atol=0.02 * moved.abs().max().item())
    assert torch.allclose(student.state["bn2.bias"], plain.bn2.bias, atol=1e-4)
    assert torch.equal(student.state["bn2.running_mean"], network.bn2.running_mean)


def test_tuning_lowers_the_divergence_on_unseen_images(network, graph):
    images, labels = images_and_labels(256)
    fresh = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(77))
    config = Quantization(weight_rounding="nearest", correction="never")
    tuning, left = Tuning(steps=150, batch_size=32, lr=0.03, crop_eta=1.0), []
    for seed in range(3):
        student = default_student(graph, images, config=config)
        before = kl_at_temperature(student(fresh), network(fresh), 1.0)
        tune(student, graph, images, labels, tuning, RunContext(seed))
        left.append((kl_at_temperature(student(fresh), network(fresh), 1.0) / before).item())
    assert sum(left) / 3 < 0.6


def test_tuning_is_reproducible_and_leaves_the_teacher_unchanged(network, graph):
    images, labels = images_and_labels()
    before = copy.deepcopy(network.state_dict())
    made = []
    for seed in (1, 1, 2):
        student = default_student(graph, images)
        tune(student, graph, images, labels, Tuning(steps=4, batch_size=16), RunContext(seed))
        made.append(student.latent["conv2"].latent.detach().clone())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_batch_norm_with_zero_output_does_not_dominate_the_feature_loss(network, graph):
    network.bn3.weight.data.zero_()
    network.bn3.bias.data.zero_()
    images, labels = images_and_labels()
    tuning = Tuning(steps=30, batch_size=24)
    before, _ = one_step(graph, default_student(graph, images), images, labels)
    after = tune(default_student(graph, images), graph, images, labels, tuning)
    assert after["features"] < 2 * before["features"]
    assert after["kl"] < before["kl"]


def test_tuning_leaves_batch_norm_statistics_unchanged(network, graph):
    images, labels = images_and_labels()
    student = default_student(graph, images)
    before = student.state["bn1.running_var"].clone()
    tune(student, graph, images, labels, Tuning(steps=2, batch_size=16))
    assert not torch.equal(student.state["bn1.weight"], network.bn1.weight)
    assert torch.equal(student.state["bn1.running_var"], before)


def test_adam_moves_every_channel_in_proportion_to_its_scale(network, graph):
    """Weights of a channel that are a thousand times smaller must move a thousand times less."""
    network.conv2.weight.data[0] *= 1e-3
    images, labels = images_and_labels()
    student = default_student(graph, images)
    start = student.latent["conv2"].weight.detach().clone()
    step = student.latent["conv2"].grid()[0].detach()
    tune(student, graph, images, labels, Tuning(steps=1, batch_size=48, lr=0.01))
    moved = (student.latent["conv2"].weight.detach() - start).abs().amax((1, 2, 3)) / step
    assert torch.allclose(moved, torch.full((6,), 0.01), rtol=0.1)


def one_step(graph, student, images, labels, compiled=False, **options):
    """Losses of a step of plain SGD, and the changes that it makes, which are proportional to the gradient."""
    start = copy.deepcopy(student.state_dict())
    config = Tuning(
        steps=1, batch_size=12, optimizer="sgd", momentum=0.0, lr=0.01, precision="float32", compile=compiled
    )
    losses = tune(student, graph, images, labels, config, RunContext(**options))
    return losses, {key: (value - start[key]).double() for key, value in student.state_dict().items()}


def check_same_step(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-4)
    assert sum(moved.any() for moved in one[1].values()) > 4
    for key, moved in one[1].items():
        assert (moved - other[1][key]).norm() <= 1e-3 * moved.norm(), key


def test_micro_batches_give_the_same_step_as_the_whole_batch(graph):
    images, labels = images_and_labels()
    check_same_step(
        *(one_step(graph, default_student(graph, images), images, labels, micro_batch_size=size) for size in (None, 5))
    )


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_compiled_step_has_the_same_gradient(graph, placement):
    images, labels = images_and_labels(24)
    plain = Quantization(weight_rounding="nearest", activation_range="mse")
    told, made = [], []
    for wanted in (False, True):
        student = default_student(graph, images, bits=4, config=plain, placement=placement)
        made.append(one_step(graph, student, images, labels, wanted, report=told.append))
    check_same_step(*made)
    assert any(isinstance(event, Noted) and "torch.compile" in event.message for event in told)
    assert not any(isinstance(event, Warned) for event in told)


def test_persistently_infinite_losses_are_an_error_and_restore_the_network(graph):
    """With a teacher whose logits are not finite."""
    images, labels = images_and_labels()
    student = default_student(graph, images)
    before = copy.deepcopy(student.state_dict())
    mute = watch_input(graph, lambda x: x * torch.inf)
    with pytest.raises(DivergedError, match="losses of tuning are not finite"):
        tune(student, mute, images, labels, Tuning(steps=30, batch_size=8))
    for key, value in student.state_dict().items():
        assert torch.equal(value, before[key]), key


RUINOUS = Tuning(steps=40, batch_size=16, schedule="step", lr_steps=(), lr=10.0)


def test_collapsed_network_is_tuned_again_at_a_lower_learning_rate(network, graph, tmp_path, saved_at_every_step):
    """Also if it is interrupted while it collapses."""
    images, labels = images_and_labels(64)
    told, student = [], default_student(graph, images, bits=4)
    tune(student, graph, images, labels, RUINOUS, RunContext(report=told.append))
    (warned,) = [event.message for event in told if isinstance(event, Warned)]
    assert "tuning reduced the network to chance level at a learning rate of 10" in warned
    steps = [event.step for event in told if isinstance(event, StepDone)]
    assert steps == [1, 11, 21, 1, 11, 21, 31, 40]  # the fourth report would have been the third of a collapsed network
    distance = kl_at_temperature(student(images), network(images), 1.0)
    assert distance < SOUND * ignorance(network(images), 1.0)
    context = RunContext(report=stopping("tuning", 21), store=ResumeStore(tmp_path))
    with pytest.raises(Stop):
        tune(default_student(graph, images, bits=4), graph, images, labels, RUINOUS, context)
    again = default_student(graph, images, bits=4)
    tune(again, graph, images, labels, RUINOUS, RunContext(store=ResumeStore(tmp_path)))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("divergences", "collapsed"),
    [
        ((0.4, 0.8, 0.8, 0.8), True),
        ((0.4, 0.8, 0.8, 0.7, 0.8, 0.8), False),  # not three times in a row
        ((0.6, 0.8, 0.8, 0.8), False),  # it never was sound
        ((0.4, 0.7, 0.7, 0.7), False),
    ],
)
def test_collapse_is_three_divergences_in_a_row_near_that_of_equal_logits(divergences, collapsed):
    watch = _Collapse()
    with pytest.raises(CollapsedError) if collapsed else nullcontext():
        for kl in divergences:
            watch.check(2 * kl, 2.0)


def test_interrupted_retry_at_a_lower_learning_rate_is_resumed(graph, tmp_path, saved_at_every_step):
    images, labels = images_and_labels()
    seen = []

    def stumble(x):
        """Make the first logits infinite."""
        seen.append(x)
        return x * (torch.inf if len(seen) == 1 else 1.0)

    stumbling = watch_input(graph, stumble)

    def run(student, report):
        return tune(student, stumbling, images, labels, config, RunContext(report=report, store=ResumeStore(tmp_path)))

    config = Tuning(steps=20, batch_size=8)
    whole = default_student(graph, images)
    tune(whole, stumbling, images, labels, config)
    seen.clear()
    told, student = [], default_student(graph, images)

    def stop(event):
        told.append(event)
        stopping("tuning", 11)(event)

    with pytest.raises(Stop):
        run(default_student(graph, images), stop)
    assert any(isinstance(event, Warned) and "retrying at a quarter of it" in event.message for event in told)
    told.clear()
    run(student, told.append)
    assert not any(isinstance(event, Warned) for event in told)
    assert [event.step for event in told if isinstance(event, StepDone)] == [11, 20]
    for key, value in student.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
