"""Unusual code and files of users: what is supported, and what is rejected."""

import json
import os

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import (
    DeQuantStub,
    MinMaxObserver,
    QuantStub,
    convert,
    default_fake_quant,
    get_default_qconfig,
    prepare,
    quantize_dynamic,
)

from intraq_cli import inspect, load, quantize
from intraq_cli.errors import ModelError
from intraq_cli.models.source import Source
from intraq_cli.models.state_dict import read_state_dict
from tests.conftest import FACTORY, SPEC, SmallNet, trained

GIVEN = {**SPEC, "device": "cpu", "recipe": "instant"}


def timm_folder(folder, config, drop=(), rename="", architecture="test_resnet"):
    """Write a model folder as timm does, with some tensors left out or renamed."""
    torch.manual_seed(3)
    network = timm.create_model(architecture, num_classes=7)
    held = {rename + key: value for key, value in network.state_dict().items() if not key.startswith(drop or "\0")}
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in held.items()}, folder / "model.safetensors")
    cfg = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "classifier": network.default_cfg["classifier"],
    }
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": cfg, **config}))
    return network


def test_timm_folder_loads_bit_for_bit(tmp_path):
    network = timm_folder(tmp_path / "net", {"num_classes": 7})
    found = Source.parse(str(tmp_path / "net")).load().network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())


def test_label_names_may_be_a_mapping_with_gaps(tmp_path):
    timm_folder(tmp_path / "net", {"num_classes": 7, "label_names": {"0": "cat", "5": "dog"}})
    names = ["cat", *(f"class {k}" for k in range(1, 5)), "dog", "class 6"]
    assert Source.parse(str(tmp_path / "net")).load().label_names == names


def test_complete_state_dict_is_preferred_to_an_incomplete_average(tmp_path):
    network = timm.create_model("test_resnet", num_classes=7)
    averaged = {name: parameter + 1 for name, parameter in network.named_parameters()}
    torch.save({"model_ema": averaged, "model": network.state_dict()}, tmp_path / "last.pth")
    found = read_state_dict(tmp_path / "last.pth", network.state_dict().keys())
    assert torch.equal(found["conv1.0.weight"], network.conv1[0].weight)
    assert "conv1.1.running_mean" in found


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({"model_args": {"num_classes": 7}}, {}),  # timm expects another number of classes and drops the head
        ({"num_classes": 7}, {"architecture": "dla46_c", "drop": ("level5",)}),  # timm ignores that tensors are missing
        ({"num_classes": 7}, {"architecture": "dla46_c", "rename": "encoder."}),
    ],
)
def test_weights_that_timm_would_initialise_at_random_are_rejected(tmp_path, config, changes):
    timm_folder(tmp_path / "net", config, **changes)
    with pytest.raises(ModelError, match=r"at random, not from model.safetensors|cannot load"):
        Source.parse(str(tmp_path / "net")).load()


class Frozen(SmallNet):
    """Overrides ``train``, the usual way to freeze batch norms, and returns None."""

    def train(self, mode=True):
        super().train(mode)


class Wrapped(SmallNet):
    """A forward whose decorator hides its arguments."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class Standardized(SmallNet):
    """Divides by the standard deviation of each image, which is zero for an image of zeros."""

    def forward(self, x):
        return super().forward((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


class Flipped(SmallNet):
    """Averages the logits of an image and its mirror image: the classifier sees twice as many rows as images."""

    def forward(self, x):
        return sum(super().forward(torch.cat([x, x.flip(-1)])).chunk(2)) / 2


@pytest.mark.parametrize("kind", [Frozen, Wrapped, Standardized, Flipped])
@pytest.mark.parametrize("recipe", ["instant", "default"])
def test_networks_with_unusual_methods_are_quantized_and_loaded(tmp_path, kind, recipe):
    few = {"synthesis.num_images": 8, "synthesis.batch_size": 8, "synthesis.steps": 2, "tuning.steps": 1}
    settings = {} if recipe == "instant" else few
    network = trained(SmallNet()).eval()
    network.__class__ = kind
    made = quantize(network, out=tmp_path / "out", set=settings, **{**GIVEN, "recipe": recipe})
    x = torch.randn(3, 3, 8, 8)
    assert load(made.path, model=network, device="cpu")(x).shape == (3, 4)


def test_module_named_like_a_python_keyword_gets_a_hint_to_rename_it():
    network = trained(SmallNet())
    setattr(network, "global", network.conv2)
    network.__class__ = type("Named", (SmallNet,), {"conv2": property(lambda self: getattr(self, "global"))})
    del network._modules["conv2"]
    with pytest.raises(ModelError, match="cannot be captured as a graph") as caught:
        inspect(network, **SPEC)
    assert "rename" in caught.value.hint


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())), "scripted"),
        (lambda: nn.Sequential(nn.Flatten()), "has no parameters"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_and_parameterless_modules_are_rejected(network, says):
    with pytest.raises(ModelError, match=says):
        quantize(network(), **GIVEN)


def converted():
    network = trained(SmallNet())
    network.qconfig = get_default_qconfig("x86")
    prepare(network, inplace=True)
    network(torch.randn(2, 3, 8, 8))
    return convert(network)


@pytest.mark.parametrize(
    ("network", "is_a"),
    [
        (converted, "conv1 is a Conv2d"),
        (lambda: quantize_dynamic(trained(SmallNet()), {nn.Linear}), "fc is a Linear"),
        (lambda: nn.Sequential(SmallNet(), default_fake_quant()), "1 is a FakeQuantize"),
        (lambda: nn.Sequential(SmallNet(), MinMaxObserver()), "1 is a MinMaxObserver"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch announces the end of these
def test_network_that_torch_has_quantized_already_is_refused(network, is_a):
    with pytest.raises(ModelError, match=f"is already quantized, or prepared for it: {is_a} of torch.ao"):
        inspect(network(), **SPEC)


def test_stand_ins_that_torch_quantizes_later_are_no_obstacle():
    network = nn.Sequential(QuantStub(), trained(SmallNet()), DeQuantStub())
    network[1].sum = FloatFunctional()
    assert len(inspect(network, **SPEC).layers) == 4


def test_network_without_values_is_inspected_but_not_quantized():
    network = SmallNet().to("meta")
    assert len(inspect(network, **SPEC).layers) == 4
    with pytest.raises(ModelError, match=r"has no weights yet: conv1\.weight is on the meta device"):
        quantize(network, **GIVEN)


def test_network_with_a_sparse_buffer_is_refused_by_its_operation():
    class Sparse(SmallNet):
        def forward(self, x):
            return torch.sparse.mm(self.related, super().forward(x).mT).mT

    network = trained(SmallNet())
    network.register_buffer("related", torch.eye(4).to_sparse())
    network.__class__ = Sparse
    with pytest.raises(ModelError, match=r"cannot be captured as a graph: .*sparse"):
        inspect(network, **SPEC)


def test_network_that_needs_more_than_images_is_told_so():
    class Conditional(SmallNet):
        def forward(self, x, y):
            return super().forward(x) + y

    with pytest.raises(ModelError, match="missing 1 required positional argument: 'y'") as caught:
        inspect(Conditional(), **SPEC)
    assert caught.value.hint == "give a network whose forward needs the images only"


@pytest.mark.parametrize("recipe", ["instant", "default"])
def test_global_state_changed_by_a_factory_is_restored(tmp_path, monkeypatch, capsys, recipe):
    more = """
import os

def rude():
    print("loading")
    os.chdir(os.path.dirname(os.path.abspath(__file__)) + "/..")
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.manual_seed(0)
    with torch.device("cpu"):
        return net()
"""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "there/nets.py").write_text(FACTORY + more)
    monkeypatch.chdir(tmp_path / "here")
    few = {"synthesis.num_images": 8, "synthesis.batch_size": 8, "synthesis.steps": 2, "tuning.steps": 1}
    settings = {} if recipe == "instant" else few
    made = quantize("../there/nets.py:rude", out="out", set=settings, **{**GIVEN, "recipe": recipe})
    assert (tmp_path / "here/out/model.safetensors").is_file()
    assert load(made.path, model="../there/nets.py:rude", device="cpu")(torch.zeros(1, 3, 8, 8)).dtype == torch.float32
    printed = capsys.readouterr()
    assert ("loading" in printed.out, "loading" in printed.err) == (False, True)
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float32, "cpu")
    assert (torch.is_grad_enabled(), os.getcwd()) == (True, str(tmp_path / "here"))


def test_malformed_licence_does_not_fail_a_run(tmp_path):
    for licence in ("MIT\n", ["mit"], "x" * 2000, 5):
        network = trained(SmallNet())
        network.pretrained_cfg = {"license": licence}
        quantize(network, out=tmp_path / "out", force=True, **GIVEN)
    assert (tmp_path / "out/README.md").is_file()


def test_tensors_that_a_network_stores_when_it_runs_do_no_harm(tmp_path):
    """A hook keeps activations, also while the graph is captured, and forward keeps an output with its gradient."""

    class KeepsItsLast(SmallNet):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    network = trained(KeepsItsLast()).requires_grad_(True)
    network.seen = []
    network.conv1.register_forward_hook(lambda module, given, out: network.seen.append(out))
    x = torch.randn(4, 3, 8, 8)
    wanted = network(x)
    assert wanted.grad_fn is not None
    for k in range(2):  # the second time, the list holds what the first has left
        quantize(network, **GIVEN, w=8, a=8, out=tmp_path / f"{k}")
        found = load(tmp_path / f"{k}", model=network)(x)
        assert (found - wanted).std() < 0.1 * wanted.std()
