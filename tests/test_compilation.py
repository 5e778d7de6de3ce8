"""Both stages through torch.compile."""

import copy
import shutil

import pytest
import torch

from intraq_cli.compilation import Compiled
from intraq_cli.events import Noted, Warned
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.recipe import Quantization, Synthesis, Tuning
from intraq_cli.synthesis.synthesizer import synthesize_images
from intraq_cli.trace import trace_network
from intraq_cli.tuning.tuner import tune

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")


def warnings_in(events):
    return [event.message for event in events if isinstance(event, Warned) and "torch.compile" in event.message]


@pytest.mark.slow
@needs_compiler
def test_stage_1_makes_the_same_images(network):
    bounds = (torch.full((3,), -2.0), torch.full((3,), 2.0))
    made, told = [], []
    for wanted in (False, True):
        config = Synthesis(num_images=16, batch_size=8, steps=4, compile=wanted)
        made.append(synthesize_images(network, "fc", (3, 8, 8), 4, bounds, config, report=told.append))
    assert any(isinstance(event, Noted) and "torch.compile" in event.message for event in told)
    assert not warnings_in(told)
    assert made[0].losses["mdc"] > 0
    assert made[1].losses == pytest.approx(made[0].losses, rel=1e-3)
    torch.testing.assert_close(made[1].images, made[0].images, atol=1e-2, rtol=0)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_stage_2_moves_by_the_same_gradient(network, placement):
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(24) % 4
    moved = []
    for wanted in (False, True):
        told = []
        student = QuantizedNetwork(
            copy.deepcopy(network), plan_quantization(trace_network(network, images[:2]), 4, 4, placement)
        )
        calibrate(student, network, images[:8], Quantization(weight_rounding="nearest", activation_range="mse"))
        start = copy.deepcopy(student.state_dict())
        config = Tuning(steps=1, batch_size=12, optimizer="sgd", momentum=0.0, lr=0.01, compile=wanted)
        losses = tune(student, network, images, labels, config, report=told.append)
        assert not warnings_in(told)
        moved.append((losses, {key: (value - start[key]).double() for key, value in student.state_dict().items()}))
    assert moved[1][0] == pytest.approx(moved[0][0], rel=1e-4)
    assert sum(plain.any() for plain in moved[0][1].values()) > 4
    for key, plain in moved[0][1].items():
        assert (moved[1][1][key] - plain).norm() <= 1e-3 * plain.norm(), key


@pytest.mark.slow
@needs_compiler
def test_without_a_working_compiler_it_goes_on_as_it_is(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    told = []
    double = Compiled(lambda x: (2 * x.sin()).cos() + 0.123, wanted=True, report=told.append)
    x = torch.arange(5.0)
    for _ in range(2):
        assert torch.equal(double.run(lambda function: function(x)), (2 * x.sin()).cos() + 0.123)
    (warning,) = warnings_in(told)
    assert warning.startswith("torch.compile failed, going on without it: ")


def failing(error):
    def function(x):
        raise error

    return function


def test_work_that_fails_compiled_starts_over_with_the_plain_function():
    told, started = [], []
    double = Compiled(lambda x: 2 * x, wanted=False, report=told.append)
    double.compiled = failing(RuntimeError("no\nway"))

    def work(function):
        started.append(function)
        return function(21)

    assert [double.run(work), double.run(work)] == [42, 42]
    assert len(started) == 3
    assert warnings_in(told) == ["torch.compile failed, going on without it: no"]


def test_running_out_of_memory_is_not_the_compilers_fault():
    told = []
    double = Compiled(lambda x: 2 * x, wanted=False, report=told.append)
    double.compiled = failing(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        double.run(lambda function: function(1))
    assert double.compiled is not None
    assert not told


def test_an_error_of_the_function_itself_is_raised():
    wrong = Compiled(failing(ZeroDivisionError("wrong")), wanted=False)
    wrong.compiled = failing(ZeroDivisionError("wrong"))
    with pytest.raises(ZeroDivisionError):
        wrong.run(lambda function: function(1))
