"""Two and four gloo processes on the CPU."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from intraq_cli.errors import DeviceError
from intraq_cli.runtime import distributed
from intraq_cli.runtime.distributed import ProcessGroup
from tests.conftest import INPUT, TINY
from tests.fakes.process import Process

SCRIPT = """
import sys, torch, weakref
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.distributed import process_group
from intraq_cli.recipe import Synthesis, Tuning
from intraq_cli.synthesis.synthesizer import synthesize_images
from tests.conftest import SmallNet, graph_of, trained
from tests.tuning.runs import default_student
from intraq_cli.tuning.tuner import tune
graph = graph_of(trained(SmallNet()))
bounds = torch.full((3,), -2.0), torch.full((3,), 2.0)
with process_group(torch.device("cpu")) as ranks:
    group = weakref.ref(torch.distributed.group.WORLD) if ranks.size > 1 else lambda: None
    made = {}
    for weight in (0.0, 1.0):
        config = Synthesis(num_images=40, batch_size=8, steps=5, mdc_weight=weight, lambda_lower=0.5)
        made[weight] = synthesize_images(graph, (3, 8, 8), 4, bounds, config, RunContext(ranks=ranks))
    images, labels = made[0.0].images.float(), made[0.0].labels
    student = default_student(graph, images)
    start = {key: value.clone() for key, value in student.state_dict().items()}
    # plain gradient descent: it goes by sums of gradients, where Adam makes steps of their last bits too
    config = Tuning(steps=1, batch_size=10, optimizer="sgd", lr=0.1, momentum=0.0)
    losses = tune(student, graph, images, labels, config, RunContext(ranks=ranks))
    moved = {key: value - start[key] for key, value in student.state_dict().items()}
    results = ranks.gather((made[1.0].images.double().sum().item(), losses))
    assert all(result == results[0] for result in results), "the processes have come to different ends"
    if ranks.rank == 0:
        torch.save([[m.images, m.losses] for m in made.values()] + [moved, losses], sys.argv[1])
assert group() is None, "threads of the group live on, and may bring the process down at its exit"
"""


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launched_processes(processes, *command, **env):
    """Start the processes of one job as torchrun would; returns their standard output, error and exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
    jobs = [
        Process(command, {**common, "RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(processes)})
        for k in range(processes)
    ]
    return [(*job.communicate(timeout=300), job.returncode) for job in jobs]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = {}
    for processes in (1, 2, 4):
        path = tmp_path_factory.mktemp("ranks") / "made.pt"
        for _, err, code in launched_processes(processes, "-c", SCRIPT, str(path)):
            assert code == 0, err
        found[processes] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_images_of_several_processes_equal_those_of_one(results, processes):
    """Bit for bit without MDC; with it only approximately, as class centres are those of earlier rounds."""
    (alone, _), (alone_mdc, losses), *_ = results[1]
    (shared, _), (shared_mdc, shared_losses), *_ = results[processes]
    assert torch.equal(alone, shared)
    assert torch.equal(alone_mdc[:8], shared_mdc[:8])  # the first round has no centres yet
    assert not torch.equal(alone_mdc, shared_mdc)
    assert shared_losses["bns"] == pytest.approx(losses["bns"], rel=0.1)


@pytest.mark.parametrize("processes", [2, 4])
def test_tuning_in_several_processes_uses_the_gradient_of_the_whole_batch(results, processes):
    *_, moved, losses = results[1]
    *_, shared, shared_losses = results[processes]
    assert shared_losses == pytest.approx(losses, rel=1e-3)
    assert {key for key, step in moved.items() if step.any()} == {key for key, step in shared.items() if step.any()}
    for key, step in moved.items():
        assert torch.allclose(shared[key], step, rtol=0.01, atol=0.01 * float(step.abs().max())), key
    assert sum(bool(step.any()) for step in moved.values()) > 5


def test_only_the_first_process_prints_and_writes(factory, tmp_path):
    command = ["-m", "intraq_cli", "quantize", f"{factory}:net", *INPUT, *TINY, "--json", "--out", tmp_path / "o"]
    (out, err, code), *others = launched_processes(2, *command)
    assert (code, others) == (0, [("", "", 0)]), err
    assert json.loads(out)["path"] == str(tmp_path / "o")
    assert err.count("synthesis: done") == 1
    assert json.loads((tmp_path / "o/run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_error_under_torchrun_is_one_object_from_one_process(factory, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/mine").touch()
    command = ["-m", "intraq_cli", "quantize", f"{factory}:net", *INPUT, *TINY, "--json", "--out", tmp_path / "o"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [*TORCHRUN, *map(str, command)], capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert made.returncode == 1, made.stderr
    assert json.loads(made.stdout)["error"]["message"].endswith("already exists")


def test_death_of_a_process_ends_the_job_with_a_one_line_error(factory, tmp_path):
    dies = (
        "import os, sys, intraq_cli.synthesis.synthesizer as s\n"
        "if os.environ['RANK'] == '1': s.draw_labels = lambda *_: os._exit(9)\n"
        "from intraq_cli.app import main\n"
        "raise SystemExit(main(sys.argv[1:]))"
    )
    command = ["quantize", f"{factory}:net", *INPUT, *TINY, "--out", str(tmp_path / "o")]
    (_, err, code), (_, _, other) = launched_processes(2, "-c", dies, *command)
    assert (code, other) == (1, 9)
    assert "another process of this job has ended" in err
    assert "Traceback" not in err


@pytest.fixture
def first_of_two(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(key, value)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            "CUDA error: an illegal memory access was encountered",
            DeviceError,
            "the GPU of process 1 failed: CUDA error",
        ),
        ("NCCL error: Duplicate GPU detected : rank 0 and rank 1", DeviceError, "processes of this job share a GPU"),
        ("[pair.cc:561] Connection closed by peer", DeviceError, "another process of this job has ended"),
        ("[gloo] Timed out waiting 5ms for recv operation", DeviceError, "another process of this job does not answer"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", RuntimeError, "ALLOC_FAILED"),  # caught where batches are halved
        ("shapes differ", RuntimeError, "shapes differ"),
    ],
)
def test_process_group_failures_are_translated_into_clear_errors(monkeypatch, error, kind, says):
    def fails(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(torch.distributed, "all_gather_object", fails)
    with pytest.raises(kind, match=says):
        ProcessGroup(1, 2).gather(None)


def test_existing_process_group_is_an_error_and_is_not_destroyed(first_of_two):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(DeviceError, match=r"already has a process group \(gloo, 1 processes\)"), _group():
            pass
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_waiting_for_a_missing_process_times_out_with_a_hint(first_of_two, monkeypatch):
    monkeypatch.setattr(distributed, "START_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(DeviceError, match="cannot connect to one another: Timed out") as refused, _group():
        pass
    assert "torchrun" in refused.value.hint
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(DeviceError, match="MASTER_ADDR expected"), _group():
        pass


def _group():
    return distributed.process_group(torch.device("cpu"))


def test_stray_rank_variable_does_not_silence_the_command(intraq, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert "recipes" in intraq("zoo", "list").out


@pytest.mark.slow
def test_consecutive_process_groups_do_not_share_addresses(tmp_path):
    """As ``quantize --seeds`` under torchrun: the processes leave a block at different times."""
    code = """
import sys, time, torch
from intraq_cli.runtime.distributed import process_group
for _ in range(3):
    with process_group(torch.device("cpu")) as ranks:
        one = torch.ones(1)
        ranks.all_reduce([one])
        time.sleep(0.5 * (ranks.rank == 0))
    assert one.item() == 2
print("done", ranks.rank)
"""
    (tmp_path / "groups.py").write_text(code)
    made = subprocess.run([*TORCHRUN, tmp_path / "groups.py"], capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made.stderr
    assert sorted(made.stdout.split()) == ["0", "1", "done", "done"]
