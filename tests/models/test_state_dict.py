"""State dicts are read unchanged from files as training scripts write them."""

import argparse
import json
import pathlib
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from intraq_cli.errors import ModelError
from intraq_cli.models.source import Source
from intraq_cli.models.state_dict import read_state_dict


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=7)


def prefixed(network, prefix):
    return {f"{prefix}{key}": value for key, value in network.state_dict().items()}


def of_a_script(network):
    """What timm's own training script saves."""
    args = argparse.Namespace(model="test_resnet", output=pathlib.PurePosixPath("/data"), lr=0.1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": prefixed(network, "module."),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": args,
        "metric": np.float64(71.5),
    }


FILES = {
    "plain": lambda n: n.state_dict(),
    "DataParallel": lambda n: nn.DataParallel(n).state_dict(),
    "compiled": lambda n: torch.compile(n).state_dict(),
    "compiled, then DataParallel": lambda n: nn.DataParallel(torch.compile(n)).state_dict(),
    "DataParallel, then compiled": lambda n: torch.compile(nn.DataParallel(n)).state_dict(),
    "a compiled part": lambda n: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in n.state_dict().items()},
    "averaged": lambda n: AveragedModel(n).state_dict(),
    "Lightning": lambda n: {"epoch": 3, "state_dict": prefixed(n, "model."), "loops": {}},
    "timm's script": of_a_script,
    **{key: lambda n, key=key: {"epoch": 1, key: n.state_dict()}
       for key in ("net", "model_state_dict", "params", "model", "state_dict", "state_dict_ema", "network")},
    "an empty average": lambda n: {"state_dict": n.state_dict(), "model_ema": {}, "state_dict_ema": None},
    "an average of something else": lambda n: {"state_dict": n.state_dict(), "model_ema": {"decay": torch.ones(1)}},
    "an average that is no state dict": lambda n: {"model": n.state_dict(), "model_ema": {"decay": 0.99}},
    "an average in a module": lambda n: {"model_ema": {"module": n.state_dict(), "decay": 0.99}},
    "another key": lambda n: {"student": n.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "a part of a larger module": lambda n: {**prefixed(n, "net.backbone."), "criterion.weight": torch.ones(7)},
    "Lightning with a loss": lambda n: {"state_dict": {**prefixed(n, "model."), "loss.weight": torch.ones(7)}},
    "two names for the same": lambda n: {**prefixed(n, "model."), **prefixed(n, "alias.")},
    "twice": lambda n: {"model": {"state_dict": n.state_dict()}},
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_state_dict_is_extracted_from_wrapped_checkpoints(kind, network, tmp_path):
    torch.save(FILES[kind](network), tmp_path / "w.pth")
    expected = network.state_dict()
    found = read_state_dict(tmp_path / "w.pth", expected.keys())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_moving_average_of_the_weights_is_preferred(network, tmp_path):
    ema = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": ema}, tmp_path / "w.pth")
    assert not any(value.any() for value in read_state_dict(tmp_path / "w.pth", ema.keys()).values())


@pytest.mark.parametrize("wrapped", [False, True])
def test_file_with_the_weights_of_several_networks_is_rejected(network, wrapped, tmp_path):
    other = {key: tensor + 1 for key, tensor in network.state_dict().items()}
    both = {"student": network.state_dict(), "teacher": other}
    flat = {f"{name}.{key}": tensor for name, state in both.items() for key, tensor in state.items()}
    torch.save(both if wrapped else {"state_dict": flat}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"contains the weights of several networks: .*student, .*teacher"):
        read_state_dict(tmp_path / "w.pth", other.keys())


def test_prefix_that_belongs_to_the_network_is_kept(tmp_path):
    network = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth", network.state_dict())) == {"module.weight", "module.bias"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "optimizer": {"lr": 0.1}, "args": argparse.Namespace(a=1)},
         "contains no state dict, only epoch (int), optimizer (dict), args (argparse.Namespace)"),
        (nn.Linear(2, 2), "contains no state dict, only an object of type torch.nn.modules.linear.Linear"),
        ([torch.zeros(2)], "contains no state dict, only an object of type list"),
        ({}, "contains no state dict, only an empty dict"),
    ],
)  # fmt: skip
def test_error_for_a_file_without_a_state_dict_lists_its_contents(content, says, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        read_state_dict(tmp_path / "w.pth", ())
    assert says in caught.value.message


def test_reading_a_state_dict_runs_no_pickled_code(tmp_path):
    class Deed:
        def __reduce__(self):
            return shutil.copyfile, (str(tmp_path / "w.pth"), str(tmp_path / "copy"))

    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Deed()}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth", ())["a"] == 1
    assert not (tmp_path / "copy").exists()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_sparse_tensor_is_rejected_by_name(sparse, tmp_path):
    torch.save({"fc.weight": sparse(torch.eye(2))}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"fc\.weight is a sparse tensor"):
        read_state_dict(tmp_path / "w.pth", ())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_file_with_non_float_weights_is_rejected(network, dtype, tmp_path):
    state = network.state_dict()
    torch.save({**state, "fc.weight": state["fc.weight"].to(dtype)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"fc\.weight is .*, but the network needs floats"):
        Source.parse("test_resnet", weights=tmp_path / "w.pth").load()


def test_half_precision_weights_and_integer_counters_are_accepted(network, tmp_path):
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in network.state_dict().items()
    }
    assert any(not tensor.is_floating_point() for tensor in state.values())
    torch.save(state, tmp_path / "w.pth")
    loaded = Source.parse("test_resnet", weights=tmp_path / "w.pth").load().network.state_dict()
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in state.items())


def test_model_folder_with_integer_weights_is_rejected(network, tmp_path):
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = network.state_dict()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    Source.parse(str(tmp_path)).load()
    save_file({**state, "fc.weight": state["fc.weight"].char()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"fc\.weight is I8 \[7, \d+\], but the network needs floats"):
        Source.parse(str(tmp_path)).load()


def test_incomplete_data_parallel_file_lacks_only_the_missing_tensors(tmp_path, network):
    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items() if not key.startswith("fc.")}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "last.pth")
    found = read_state_dict(tmp_path / "last.pth", network.state_dict().keys())
    assert network.state_dict().keys() - found.keys() == {"fc.weight", "fc.bias"}
    assert not found.keys() - network.state_dict().keys()
