"""torch.compile, and what happens if it fails; a compiled stage 2 is tested in tests/tuning."""

import os
import subprocess
import sys
import time

import pytest
import torch

from intraq_cli.events import Noted, Warned
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime import compilation
from intraq_cli.runtime.compilation import PAYS, Accelerated, mode_of
from intraq_cli.runtime.context import RunContext
from intraq_cli.synthesis.synthesizer import synthesize_images
from tests.conftest import graph_of, needs_compiler


def warnings_in(events):
    return [event.message for event in events if isinstance(event, Warned) and "torch.compile" in event.message]


def test_auto_compiles_only_long_runs_on_a_cpu(network, graph, monkeypatch):
    monkeypatch.setattr(compilation, "can_compile", lambda: True)
    values = 6 * 8 * 8 + 2 * (6 * 4 * 4) + 4  # of three convolutions and a classifier
    enough = PAYS * 4 * torch.get_num_threads() / values
    assert mode_of("auto", graph, "cpu", int(1.001 * enough)) == "compiled"
    assert mode_of("auto", graph, "cpu", int(0.999 * enough)) == "plain"
    assert mode_of("auto", graph, "meta", int(10 * enough)) == "plain"
    meta = graph_of(network.to("meta"))
    assert mode_of("auto", meta, "cpu", int(1.001 * enough)) == "compiled"  # the values of tensors do not matter
    assert mode_of(True, graph, "cpu", 1) == "compiled"
    assert mode_of(False, graph, "cpu", int(10 * enough)) == "plain"


def test_auto_compiles_nothing_without_a_compiler(graph, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert mode_of("auto", graph, "cpu", 10**15) == "plain"


def test_auto_uses_a_cuda_graph_on_a_gpu_but_not_with_several_processes(graph, monkeypatch):
    for device in ("cuda", torch.device("cuda", 1)):
        assert mode_of("auto", graph, device, 1) == "graph"
        assert mode_of(False, graph, device, 1) == "plain"
        assert mode_of(True, graph, device, 1) == "compiled"
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert mode_of("auto", graph, "cuda", 1) == "plain"


@pytest.mark.slow
@needs_compiler
def test_compiled_stage_1_makes_the_same_images(graph):
    bounds = (torch.full((3,), -2.0), torch.full((3,), 2.0))
    made, told = [], []
    for wanted in (False, True):
        config = Synthesis(num_images=16, batch_size=8, steps=4, compile=wanted, precision="float32")
        made.append(synthesize_images(graph, (3, 8, 8), 4, bounds, config, RunContext(report=told.append)))
    assert any(isinstance(event, Noted) and "torch.compile" in event.message for event in told)
    assert not warnings_in(told)
    assert made[0].losses["mdc"] > 0
    assert made[1].losses == pytest.approx(made[0].losses, rel=1e-3)
    torch.testing.assert_close(made[1].images, made[0].images, atol=1e-2, rtol=0)


WITHOUT_COMPILER = """
import torch
from intraq_cli.runtime.compilation import Accelerated

told = []
double = Accelerated(lambda x: (2 * x.sin()).cos() + 0.123, mode="compiled", report=told.append)
x = torch.arange(5.0)
for _ in range(2):
    assert torch.equal(double.run(lambda function: function(x)), (2 * x.sin()).cos() + 0.123)
_, warning = told
assert warning.message.startswith("torch.compile failed, continuing without it: "), warning
"""


@pytest.mark.slow
def test_function_runs_uncompiled_without_a_working_compiler():
    missing = {
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }  # in a separate process, as torch caches this
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True, env={**os.environ, **missing}, timeout=300)


def failing(error):
    def function(x):
        raise error

    return function


def test_work_that_fails_compiled_restarts_with_the_plain_function():
    told, started = [], []
    double = Accelerated(lambda x: 2 * x, report=told.append)
    double.mode, double.fast = "compiled", failing(RuntimeError("no\nway"))

    def work(function):
        started.append(function)
        return function(21)

    assert [double.run(work), double.run(work)] == [42, 42]
    assert len(started) == 3
    assert warnings_in(told) == ["torch.compile failed, continuing without it: no"]


def test_out_of_memory_is_not_reported_as_a_compiler_failure():
    told = []
    double = Accelerated(lambda x: 2 * x, report=told.append)
    double.mode, double.fast = "compiled", failing(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        double.run(lambda function: function(1))
    assert double.fast is not None
    assert not told


def test_cuda_graph_that_runs_out_of_memory_is_dropped_with_a_message():
    told = []
    double = Accelerated(lambda x: 2 * x, report=told.append)
    double.mode, double.fast = "graph", failing(torch.OutOfMemoryError("full"))
    assert double.run(lambda function: function(1)) == 2
    assert double.fast is None
    assert [event.message for event in told] == ["recording a CUDA graph failed, continuing without it: full"]


def test_interruption_is_not_reported_as_a_compiler_failure():
    def interrupted(x):
        try:
            raise KeyboardInterrupt
        finally:
            [].pop()

    told = []
    double = Accelerated(lambda x: 2 * x, report=told.append)
    double.mode, double.fast = "compiled", interrupted
    with pytest.raises(IndexError):
        double.run(lambda function: function(1))
    assert not told


def test_error_of_the_function_itself_is_raised():
    wrong = Accelerated(failing(ZeroDivisionError("wrong")))
    wrong.mode, wrong.fast = "compiled", failing(ZeroDivisionError("wrong"))
    with pytest.raises(ZeroDivisionError):
        wrong.run(lambda function: function(1))


def test_slow_compilation_is_reported_every_minute_until_it_ends(monkeypatch):
    monkeypatch.setattr(compilation, "MINUTE", 0.05)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    told = []
    made = Accelerated(torch.sin, mode="compiled", report=told.append)
    made.run(lambda function: (time.sleep(0.18), function(torch.ones(1)))[1])
    waits = [event.message for event in told[1:]]
    assert waits[:3] == [
        f"torch.compile: {count} of compiling so far" for count in ("1 minute", "2 minutes", "3 minutes")
    ]
    made.run(lambda _: time.sleep(0.12))  # it is compiled by now
    assert len(told) == 1 + len(waits)
