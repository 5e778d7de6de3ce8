"""Few machines that run these tests have a GPU; a pretended one shows that no operation mixes devices."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intraq_cli import evaluate, load, quantize
from intraq_cli.errors import ModelError
from intraq_cli.events import silent
from intraq_cli.graph.fingerprint import fingerprint
from intraq_cli.graph.nodes import replace_tensors, tensors
from intraq_cli.jobs.preparation import capture_on_device
from intraq_cli.models import teacher as teachers
from intraq_cli.models.source import InputOverride, Source
from intraq_cli.synthesis import lor
from tests.conftest import SPEC, Stop, graph_of, stopping
from tests.fakes.gpu import GPU, pretended_gpu

TINY = ["synthesis.batch_size=16", "synthesis.steps=3", "quantization.ema_steps=2", "tuning.batch_size=8",
        "synthesis.precision=float32", "tuning.precision=float32"]  # fmt: skip


def test_pretended_gpu_detects_operations_that_mix_devices():
    with pretended_gpu() as gpu:
        there, here = torch.ones(3, device="cuda", requires_grad=True), torch.ones(3)
        assert (there.device, there.is_cuda, here.device.type, there[1:].device) == (GPU, True, "cpu", GPU)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.detach().numpy()
        (there * here.to(there.device) * 2).sum().backward()
        assert there.grad in gpu
        assert there.grad.cpu().tolist() == [2, 2, 2]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("intraq_cli.jobs.manifest.describe_device", str)
    monkeypatch.setattr(lor, "_by_products", lor._by_sampling)  # for bit-identical results
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    with pretended_gpu() as gpu:
        for verb in ("quantize", "load", "evaluate"):
            chosen = f"intraq_cli.api.{verb}.choose_device"
            monkeypatch.setattr(chosen, lambda name, deterministic=False: GPU if name == "cuda" else torch.device(name))
        yield gpu


@pytest.fixture
def weights(factory, tmp_path):
    """The weights of a checkpoint that is made on the given device."""

    def run(device, recipe="default", placement="inputs", steps=3, report=silent):
        images = [] if recipe == "instant" else ["synthesis.num_images=24", f"tuning.steps={steps}"]
        quantize(
            f"{factory}:net",
            recipe=recipe,
            set=[*TINY, *images],
            act_placement=placement,
            **SPEC,
            out=tmp_path / device,
            device=device,
            report=report,
        )
        return load_file(tmp_path / device / "model.safetensors")

    return run


def check_equal(made, expected):
    assert made.keys() == expected.keys()
    assert [key for key in made if not torch.equal(made[key], expected[key])] == []


@pytest.mark.parametrize("placement", ["inputs", "activations"])
@pytest.mark.parametrize("recipe", ["default", "instant", pytest.param("paper-cifar10", marks=pytest.mark.slow)])
def test_job_on_a_gpu_mixes_no_devices_and_equals_that_on_a_cpu(recipe, placement, weights, gpu):
    expected = weights("cpu", recipe, placement)
    assert gpu.operations == 0
    check_equal(weights("cuda", recipe, placement), expected)
    assert gpu.operations > 1000


@pytest.mark.parametrize(("stage", "step"), [pytest.param("synthesis", 4, marks=pytest.mark.slow), ("tuning", 31)])
def test_job_resumed_on_a_gpu_equals_that_on_a_cpu(stage, step, weights, gpu, saved_at_every_step):
    with pytest.raises(Stop):
        weights("cuda", steps=32, report=stopping(stage, step))
    check_equal(weights("cuda", steps=32), weights("cpu", steps=32))


def test_checkpoint_gives_the_same_results_on_a_gpu_as_on_a_cpu(factory, labelled, weights, gpu, tmp_path):
    weights("cpu", "instant")
    x = torch.randn(4, 3, 8, 8)
    given = {"model": f"{factory}:net", "device": "cuda"}
    expected = load(tmp_path / "cpu", **{**given, "device": "cpu"})(x)
    out = load(tmp_path / "cpu", **given)(x.to("cuda"))
    assert out in gpu
    assert torch.equal(out.cpu(), expected)
    found = [evaluate(str(tmp_path / "cpu"), labelled, **{**given, "device": d}) for d in ("cuda", "cpu")]
    assert found[0].top1 == found[1].top1
    assert found[0].n == 3


class Making(torch.nn.Module):
    """Creates a tensor in its forward, on the device of its input."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + torch.arange(4, dtype=x.dtype, device=x.device)


def test_captured_network_creates_tensors_on_the_device_of_its_input(network):
    graph, x = graph_of(Making(network)), torch.randn(3, 3, 8, 8)
    expected = graph(x)
    with pretended_gpu() as gpu:
        out = replace_tensors(graph, lambda key, tensor: tensor.to("cuda"))(x.to("cuda"))
        assert out in gpu
        assert torch.equal(out.cpu(), expected)


ELSEWHERE = """
import torch
from nets import net

class Other(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network, self.held = net(), torch.ones(3)

    def forward(self, x):
        return self.network(x) CHANGED

def other():
    return Other().eval()
"""


def teacher_of(factory, changed):
    """The factory's network, its logits changed by some code."""
    code = Path(factory).with_name("other.py")
    code.write_text(ELSEWHERE.replace("CHANGED", changed))
    return Source.parse(f"{code}:other", InputOverride((3, 8, 8), (0.5,) * 3, (0.25,) * 3)).load()


def test_graph_captured_on_the_cpu_shares_the_networks_tensors_on_the_gpu(factory, gpu, monkeypatch):
    captured, capture = [], teachers.capture
    monkeypatch.setattr(teachers, "capture", lambda net, x: captured.append(x.device.type) or capture(net, x))
    here, there = (teacher_of(factory, "") for _ in range(2))
    expected = fingerprint(capture_on_device(here, torch.device("cpu"), silent).graph)
    graph = capture_on_device(there, GPU, silent).graph
    assert (captured, fingerprint(graph)) == (["cpu", "cpu"], expected)
    held = {**dict(there.network.named_parameters()), **dict(there.network.named_buffers())}
    assert all(tensor is held[key] and tensor in gpu for key, tensor in tensors(graph).items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("+ self.held", "runs on a CPU, but not on cuda: .*device"),
        ("+ (torch.arange(3, device=x.device) if x.is_cuda else 0)", "does not compute the same on cuda as on a CPU"),
    ],
)
def test_network_that_behaves_differently_on_a_gpu_is_rejected(changed, message, factory, gpu):
    with pytest.raises(ModelError, match=message):
        capture_on_device(teacher_of(factory, changed), GPU, silent)
