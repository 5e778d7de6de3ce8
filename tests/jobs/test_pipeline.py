"""The stages of a quantization job."""

import math
import re

import pytest
import torch

from intraq_cli import load, quantize
from intraq_cli.evaluation.fidelity import Fidelity
from intraq_cli.events import Warned
from intraq_cli.graph.nodes import replace_tensors
from intraq_cli.graph.proof import relative_error
from intraq_cli.jobs import pipeline, without_images
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.quantized_model import QuantizedModel
from intraq_cli.jobs.without_images import WithoutImages
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import capture_teacher
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.recipe import Recipe
from intraq_cli.runtime.context import RunContext
from intraq_cli.synthesis.nearest_images import nearest_images
from intraq_cli.synthesis.tuning_images import TuningImages
from tests.conftest import SPEC


@pytest.fixture
def job(network):
    def of(*settings, report=lambda event: None, std=0.25):
        teacher = Source.parse(network, InputOverride((3, 8, 8), (0.5,) * 3, (std,) * 3)).load()
        recipe = Recipe().override(["tuning.steps=0", *settings])
        return Job(teacher, capture_teacher(teacher), recipe, RunContext(report=report))

    return of


@pytest.mark.parametrize("correction", ["never", "always"])
def test_calibration_that_runs_out_of_memory_is_retried_with_half_the_images(job, correction, monkeypatch):
    images = torch.randn(17, 3, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    told, full = [], []

    def out_of_memory(student, teacher, images, config, sampled, pooled):
        calibrate(student, teacher, images, config, sampled, pooled)
        if len(images) > 4:
            full.append(len(images))
            raise torch.OutOfMemoryError("no more")

    def run(count):
        made = TuningImages(images[:count], torch.zeros(count, dtype=torch.long), {}, 1.0, 1.0)
        one = job(f"quantization.correction={correction}", report=told.append)
        return one.quantize(plan_quantization(one.captured.graph, 4, 4, "inputs"), made)

    expected = run(5)  # one of them is held out
    monkeypatch.setattr(pipeline, "calibrate", out_of_memory)
    got = run(17)
    assert full == [15, 8]
    assert [event.message for event in told if isinstance(event, Warned)] == [
        "out of memory with 15 images at once: continuing with 8, and calibrating only on these",
        "out of memory with 8 images at once: continuing with 4, and calibrating only on these",
    ]
    assert all(
        torch.equal(a, b) for a, b in zip(got.student.state.values(), expected.student.state.values(), strict=True)
    )


def test_calibration_uses_as_many_images_as_fit_into_memory(job, monkeypatch):
    told, seen = [], []
    monkeypatch.setattr(without_images, "DOUBTFUL", torch.inf)  # its batch norms were trained on white noise
    monkeypatch.setattr(pipeline, "largest_micro_batch", lambda network, shape, device, stage: 3)
    monkeypatch.setattr(
        pipeline,
        "calibrate",
        lambda s, t, images, *rest: seen.append(len(images)) or calibrate(s, t, images, *rest),
    )
    one = job("quantization.weight_rounding=nearest", report=told.append)
    one.quantize(plan_quantization(one.captured.graph, 4, 4, "inputs"), None)
    assert set(seen) == {3}
    assert "calibrating on only 3 of 64 images" in next(event.message for event in told if isinstance(event, Warned))


def test_random_images_have_less_power_at_high_frequencies_and_stay_in_bounds():
    spec = InputSpec((3, 64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bilinear", 1.0)
    images = random_pixels(spec)
    low, high = spec.bounds
    assert (images.amin((0, 2, 3)) >= low - 1e-5).all()
    assert (images.amax((0, 2, 3)) <= high + 1e-5).all()
    power = torch.fft.rfft2(images - images.mean((2, 3), keepdim=True)).abs().mean((0, 1))
    coarse, fine = power[2, 2] + power[3, 1], power[20, 20] + power[25, 15]
    assert coarse > 5 * fine
    assert images.mean((1, 2, 3)).std() > 0.5


def test_network_ruined_by_quantizing_without_images_causes_a_warning(job, monkeypatch):
    told = []
    monkeypatch.setattr(without_images, "DOUBTFUL", torch.inf)  # its batch norms were trained on white noise
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest", report=told.append)
    one.quantize(plan_quantization(one.captured.graph, 8, 8, "inputs"), None)
    assert not [event for event in told if isinstance(event, Warned)]
    with torch.no_grad():
        one.teacher.network.fc.weight.mul_(1e-3)  # the rest of the logits is less than a step of the last grid
        one.teacher.network.fc.weight[0].add_(torch.randn(6, generator=torch.Generator().manual_seed(0)))
        one.teacher.network.fc.weight[1:].sub_(one.teacher.network.fc.weight[0])
    one.quantize(plan_quantization(one.captured.graph, 2, 2, "inputs"), None)
    (warning,) = [event.message for event in told if isinstance(event, Warned)]
    assert "its predictions may be useless" in warning


def test_large_error_on_unselected_random_images_causes_a_warning(job, monkeypatch):
    told = []
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest", report=told.append)
    monkeypatch.setattr(without_images, "DOUBTFUL", torch.inf)
    monkeypatch.setattr(without_images, "BLOWN_UP", 1e-4)  # the error at 8 bits is larger on any images
    one.quantize(plan_quantization(one.captured.graph, 8, 8, "inputs"), None)
    (warning,) = [event.message for event in told if isinstance(event, Warned)]
    assert "images unlike the training data may break it" in warning


@pytest.mark.parametrize(
    ("nearest", "unselected", "figures"),
    [
        (0.08, 0.21, ["0.21", "0.08"]),
        (0.08, 0.15, []),
        (0.04, 0.09, []),
        (0.4, 0.5, ["0.40"]),
        (0.4, 0.9, ["0.90", "0.40"]),
    ],
)
def test_errors_on_nearest_and_unselected_random_images_are_both_told_if_far_apart(job, nearest, unselected, figures):
    told = []
    one = job("synthesis.num_images=0")
    plan = plan_quantization(one.captured.graph, 8, 8, "inputs")
    context = RunContext(report=lambda event: told.append(event.message))
    WithoutImages(one.teacher, one.captured.graph, plan, context)._tell(nearest, unselected, random_images=False)
    assert [figure for message in told for figure in re.findall(r"0\.\d+", message)] == figures


def test_random_images_set_ranges_if_values_contradict_batch_norm_statistics(job, monkeypatch):
    told, errors, judged = [], [], []
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest", report=told.append)
    images = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(3))  # like those of training
    with torch.no_grad():
        one.teacher.network.bn2.running_var.mul_(1e-3)  # so its outputs deviate thirty times as much as expected
    few_at_once = (random_pixels(one.teacher.spec, 16, seed) for seed in range(32))
    nearest = nearest_images(one.captured.graph, few_at_once, 128, 0)[0].images.float()
    monkeypatch.setattr(without_images, "RUINED", 0.5)
    for contradicted in (without_images.CONTRADICTED, torch.inf):
        monkeypatch.setattr(without_images, "CONTRADICTED", contradicted)
        made = one.quantize(plan_quantization(one.captured.graph, 8, 8, "inputs"), None)
        with torch.no_grad():
            errors.append(relative_error(one.teacher.network(images), made.student(images)))
            judged.append(relative_error(one.teacher.network(nearest), made.student(nearest)))
    warning, ruined = [event.message for event in told if isinstance(event, Warned)]
    assert "do not fit this network" in warning
    assert "its predictions may be useless" in ruined
    assert judged[0] < 0.1
    assert errors[0] < 0.1 * errors[1]
    assert not made.random_images


def test_ranges_from_random_images_are_evaluated_on_other_random_images(job, monkeypatch):
    """The result also says that the network was calibrated on random images."""
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest")
    with torch.no_grad():
        one.teacher.network.bn2.running_var.mul_(1e-3)
    learned, judged, calibrated_on, logits = [], [], Job._calibrated_on, WithoutImages._logits

    def watched(self, teacher, plan, images, sampled, pooled):
        learned.append(images)
        return calibrated_on(self, teacher, plan, images, sampled, pooled)

    monkeypatch.setattr(Job, "_calibrated_on", watched)
    spy = lambda self, network, x: judged.append(x) or logits(self, network, x)  # noqa: E731
    monkeypatch.setattr(WithoutImages, "_logits", spy)
    plan = plan_quantization(one.captured.graph, 8, 8, "inputs")
    made = one.quantize(plan, None)
    assert made.random_images
    assert (len(learned[-1]), len(judged[-1])) == (128, 64)
    assert not any(torch.equal(x, other) for x in judged[-1].float() for other in learned[-1].float())
    choice = WithoutImages(one.teacher, one.captured.graph, plan, one.context)
    assert made.logits_error == relative_error(
        *(logits(choice, n, judged[-1]) for n in (one.teacher.logits, made.student))
    )


@pytest.mark.parametrize("at_eight", [(0.3, 0.2), (0.9, 0.1)])
def test_ranges_from_statistics_or_random_images_are_chosen_at_8_bits(job, at_eight):
    """With few bits, weights corrected on random images suit other random images, but no other kind of image."""
    one = job()
    plan = plan_quantization(one.captured.graph, 3, 6, "inputs")
    off = {(8, "statistics"): at_eight[0], (8, "images"): at_eight[1], (3, "statistics"): 1.0, (3, "images"): 0.15}

    def made_by(plan, images):
        (bits,) = {*plan.weights.values()}
        share = off[bits, "images" if images else "statistics"]

        def student(x):
            logits = one.teacher.logits(x)
            return logits + share * (logits - logits.mean(0))

        return QuantizedModel(student, {}, Fidelity(), {})

    better = WithoutImages(one.teacher, one.captured.graph, plan, one.context).better(made_by, lambda made, _: made)
    random = at_eight[0] > without_images.CONTRADICTED * at_eight[1]
    assert better.random_images == random
    # the mean is over 16 images at once, so the error is only nearly ``share``
    assert better.logits_error == pytest.approx(off[3, "images" if random else "statistics"], rel=0.1)


def test_large_logits_error_without_images_suggests_better_recipes(job, monkeypatch):
    told = []
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest", report=told.append)
    monkeypatch.setattr(without_images, "DOUBTFUL", torch.inf)
    for weak in (without_images.WEAK, 1e-4):
        monkeypatch.setattr(without_images, "WEAK", weak)
        one.quantize(plan_quantization(one.captured.graph, 8, 8, "inputs"), None)
    (warning,) = [event.message for event in told if isinstance(event, Warned)]
    assert "of their spread: use a recipe that learns images (calibrated, default)" in warning


def test_logits_error_is_that_of_the_loaded_network_on_random_images(tmp_path, small_digits):
    made = quantize(small_digits, w=8, a=8, recipe="instant", out=tmp_path / "out", device="cpu")
    teacher = Source.parse(small_digits).load()
    images = random_pixels(teacher.spec)
    with torch.no_grad():
        wanted, got = teacher.network(images), load(made.path)(images)
    off, spread = (got - wanted).square().sum(), (wanted - wanted.mean(0)).square().sum()
    assert 0 < made.logits_error == pytest.approx(float((off / spread).sqrt()), rel=1e-3)


@pytest.fixture
def without(job, network, monkeypatch):
    """Quantizes without images, with and without the limit on how far random images may be from those of training."""

    def of(std, images):
        """For both limits: the result, the warnings, and the error of the logits on images like those of training."""
        found = []
        for foreign in (without_images.FOREIGN, torch.inf):
            told = []
            monkeypatch.setattr(without_images, "FOREIGN", foreign)
            sets = ("synthesis.num_images=0", "quantization.weight_rounding=nearest")
            one = job(*sets, report=told.append, std=std)
            made = one.quantize(plan_quantization(one.captured.graph, 8, 8, "activations"), None)
            warned = [event.message for event in told if isinstance(event, Warned)]
            with torch.no_grad():
                found.append((made, warned, relative_error(network(images), made.student(images))))
        return found

    return of


def noise_of_training():
    return torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_random_images_fit_a_network_trained_on_a_part_of_the_pixel_range(without):
    (made, _, error), (*_, on_full_range) = without(0.001, noise_of_training())
    assert made.logits_error < 0.1
    assert error < 0.1
    assert error < 0.3 * on_full_range


def test_random_images_unlike_the_training_images_are_not_used(network, without):
    network.conv1.weight.data.mul_(1e3)  # it was trained on images of a thousandth of the range
    (made, warned, error), (*_, contradicted) = without(0.25, 1e-3 * noise_of_training())
    (warning,) = warned
    assert warning.startswith("random images do not resemble this network's training data")
    assert not made.random_images
    assert math.isnan(made.logits_error)
    assert error < 0.1 * contradicted


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
def test_equalization_that_would_change_the_network_is_skipped_with_a_warning(job, placement, monkeypatch):
    told = []
    one = job("synthesis.num_images=0", "quantization.weight_rounding=nearest", report=told.append)
    plan = plan_quantization(form_of(one.captured.graph, placement), 8, 8, placement)
    as_it_is = job("synthesis.num_images=0", "quantization.equalization=false", "quantization.weight_rounding=nearest")
    wanted = as_it_is.quantize(plan, None)
    monkeypatch.setattr(pipeline, "equalize", lambda graph, bits: replace_tensors(graph, lambda key, x: 1.1 * x))
    got = one.quantize(plan, None)
    warned = [event.message for event in told if isinstance(event, Warned)]
    assert "channels are not equalized: that would change what the network computes" in warned
    assert all(torch.equal(got.student.state[key], value) for key, value in wanted.student.state.items())


@pytest.mark.parametrize("steps", [0, 2])
def test_agreement_is_omitted_without_held_out_images(network, tmp_path, steps):
    few = ["synthesis.num_images=8", "synthesis.batch_size=8", "synthesis.steps=2", "tuning.batch_size=4"]
    given = {**SPEC, "device": "cpu", "out": tmp_path / "out"}
    made = quantize(network, set=[*few, f"tuning.steps={steps}", "tuning.holdout=0"], **given)
    assert (made.held_out, math.isnan(made.agreement), math.isnan(made.kl)) == (0, True, True)
    card, report = (tmp_path.joinpath("out", name).read_text() for name in ("README.md", "report.html"))
    assert "| agreement |" not in card
    assert "learned the images below" in card
    assert "with images, of which none was held out" in report
