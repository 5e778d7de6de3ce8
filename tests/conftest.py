"""Small networks, and the command line run in this process."""

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.nn import functional as F

from intraq_cli.events import StepDone
from intraq_cli.graph.capture import capture
from intraq_cli.graph.nodes import copy_graph, finish, input_node, insert_call, own_tensors, replace_tensors
from intraq_cli.models.architectures import build_architecture
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.recipe import Placement, Quantization
from intraq_cli.runtime.resume import ResumeStore
from intraq_cli.zoo import model_folder

# torch.export makes hundreds of thousands of short-lived objects. Searching them and all of torch's own objects for
# the few reference cycles, as often as Python does by default, takes a tenth of the tests' time
gc.set_threshold(20_000, 20, 50)
gc.freeze()


class SmallNet(nn.Module):
    """Two residual-style blocks with functional ReLUs, a module ReLU that is called twice, and a linear classifier."""

    def __init__(self, channels: int = 6, classes: int = 4, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 2, 1, bias=True)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, 1, 1, groups=2, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.act(x + self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))


def trained(network: nn.Module, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> nn.Module:
    """Give ``network`` random parameters and the batch norm statistics that fit them, and freeze it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        spread = 0.5 if parameter.dim() > 1 else 0.2
        parameter.data = spread * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(64, *shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers of a test do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory):
    """Answers that evaluations cache are kept apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def network() -> nn.Module:
    return trained(SmallNet())


def graph_of(network: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> fx.GraphModule:
    """The captured graph of a network; it shares the network's tensors."""
    generator = torch.Generator().manual_seed(0)
    like = next(network.parameters())
    return capture(network, torch.randn(2, *shape, generator=generator).to(like.device, like.dtype))


def student_of(graph: fx.GraphModule, w=4, a=4, placement="inputs", ends=None) -> QuantizedNetwork:
    """A quantized network of a graph, with tensors of its own, before calibration."""
    graph = form_of(graph, placement)
    own = own_tensors(graph)
    return QuantizedNetwork(own, plan_quantization(graph, w, a, placement, ends))


def frozen_student(
    network: nn.Module, w: int, a: int, placement: Placement = "integer", shape: tuple[int, int, int] = (3, 8, 8)
) -> QuantizedNetwork:
    """A network quantized on random images and not tuned."""
    graph = graph_of(network, shape)
    student = student_of(graph, w, a, placement)
    images = torch.randn(64, *shape, generator=torch.Generator().manual_seed(5))
    calibrate(student, form_of(graph, placement), images, Quantization())
    student.freeze()
    return student.eval()


def watch_input(graph: fx.GraphModule, function: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    """A copy of a graph that passes its images through a function first."""
    graph = copy_graph(graph)
    x = input_node(graph)
    made = insert_call(graph, x.next, function, x)
    x.replace_all_uses_with(made, lambda user: user is not made)
    return finish(graph)


@pytest.fixture(scope="session")
def captured() -> fx.GraphModule:
    """Captured once, which takes a while; see ``graph``."""
    return graph_of(trained(SmallNet()))


@pytest.fixture
def graph(network: nn.Module, captured: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``captured`` for a single test, with the tensors of its ``network``."""
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return replace_tensors(captured, lambda key, tensor: own[key])


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(1234)


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def intraq(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line through its real entry point."""

    def run(*args: object) -> Ran:
        from intraq_cli.app import main

        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

def net():
    torch.manual_seed(0)
    net = Net()
    net.train()
    net(torch.randn(64, 3, 8, 8))
    return net

def no_norm():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))

def nan():
    made = net()
    made.fc.weight.data[0, 0] = float("nan")
    return made

def broken():
    raise KeyError("weights.pth")

def number():
    return 3

def untracked():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 3))

def fixed_size():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))

def map_output():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
"""
INPUT = ("--input-size", "3,8,8", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
SPEC = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}
"""The same in Python."""
TINY = ("--set", "synthesis.num_images=32", "--set", "synthesis.batch_size=16", "--set", "synthesis.steps=3",
        "--set", "tuning.steps=3", "--set", "tuning.batch_size=8")  # fmt: skip
TINY_SET = list(TINY[1::2])


@pytest.fixture
def saved_at_every_step(monkeypatch):
    """Jobs save their states at every step; otherwise it depends on the time that each step takes."""
    monkeypatch.setattr(ResumeStore, "save_periodically", lambda store, name, state: store.save(name, state()))


@pytest.fixture
def factory(tmp_path: "pytest.TempPathFactory") -> str:
    """A file of factories; append ``:net`` or the name of another one."""
    path = tmp_path / "nets.py"  # type: ignore[operator]
    path.write_text(FACTORY)
    return str(path)


@pytest.fixture
def labelled(tmp_path: "pytest.TempPathFactory") -> str:
    """A folder of class folders for ``net`` of :func:`factory`, with an image of 8 x 8 in each."""
    for label in range(3):
        folder = tmp_path / "data" / str(label)  # type: ignore[operator]
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), label << 7).save(folder / "plain.png")
    return str(tmp_path / "data")  # type: ignore[operator]


@pytest.fixture(scope="session")
def small_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder like that of the bundled model, but with eight layers instead of twenty, and untrained."""
    folder = tmp_path_factory.mktemp("zoo") / "resnet8_digits"
    folder.mkdir()
    config = json.loads((model_folder("resnet20_digits") / "config.json").read_text())
    config["model_args"]["blocks"] = 1
    network = trained(build_architecture(config["architecture"], 10, config["model_args"]), (1, 8, 8))
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


class Stop(BaseException):
    """Like an interruption: not an error."""


def stopping(stage, step):
    """A report function that stops the job at a step."""

    def report(event):
        if isinstance(event, StepDone) and (event.stage, event.step) == (stage, step):
            raise Stop

    return report
