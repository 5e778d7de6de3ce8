"""Choosing a device, and settings and memory layout on it."""

import pytest
import torch
from torch import nn

from intraq_cli.errors import DeviceError, UsageError
from intraq_cli.runtime.device import choose_device, place, training_settings
from intraq_cli.runtime.torch_errors import deterministic_or_refused


def test_convolution_weights_become_channels_last():
    network = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(4, 2)])
    network[2].tied = network[0].weight
    before = {key: value.clone() for key, value in network.state_dict().items()}
    placed = place(network, "cpu")
    assert placed is network
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[2].tied is placed[0].weight
    assert all(torch.equal(value, before[key]) for key, value in placed.state_dict().items())


class Flattening(nn.Module):
    """Reads its features in the order of memory."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3, padding=1), how

    def forward(self, x):
        return self.how(self.conv(x))


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        (lambda x: x.flatten(1), False),
        (lambda x: x.view(len(x), -1), True),  # fails in channels-last
        (lambda x: x.as_strided((len(x), 256), (256, 1)), True),  # reads other values in channels-last
    ],
)
def test_network_that_depends_on_memory_order_keeps_its_layout_and_outputs(random, how, stays):
    network, example = Flattening(how).eval(), torch.randn(2, 3, 8, 8, generator=random)
    wanted = network(example)
    placed = place(network, "cpu", example)
    assert placed.conv.weight.is_contiguous() is stays
    assert torch.allclose(placed(example), wanted, atol=1e-5)


def test_deterministic_algorithms_are_enabled_only_in_a_deterministic_block():
    with training_settings(torch.device("cuda"), deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    with training_settings(torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark


def test_nondeterministic_operation_is_a_device_error_with_a_hint():
    with pytest.raises(DeviceError) as caught, deterministic_or_refused():
        raise RuntimeError("grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set")
    assert caught.value.message.startswith("grid_sampler_2d_backward_cuda")
    assert "--deterministic" in caught.value.hint
    with pytest.raises(RuntimeError, match="shapes"), deterministic_or_refused():
        raise RuntimeError("shapes differ")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


JOB = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("name", "env", "device"),
    [
        ("auto", {}, "cuda"),
        ("cuda:1", {}, "cuda:1"),
        ("cuda", JOB, "cuda:1"),
        ("auto", JOB, "cuda:1"),
        ("cpu", JOB, "cpu"),
        ("cuda", {"RANK": "1"}, "cuda"),  # left over from another program
        ("cuda:0", {**JOB, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, "cuda:0"),
    ],
)
def test_every_process_uses_its_own_gpu(two_gpus, monkeypatch, name, env, device):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "env", "kind", "says"),
    [
        ("mps", {}, DeviceError, "float64"),
        ("mps:0", {}, DeviceError, "float64"),
        ("tpu", {}, UsageError, "there is no device 'tpu'"),
        ("cuda:2", {}, DeviceError, "there is no cuda:2: this machine has 2 GPUs"),
        ("cuda:0", JOB, UsageError, "2 processes of this job would share cuda:0"),
        (
            "cuda",
            {"RANK": "1", "WORLD_SIZE": "2"},
            UsageError,
            "LOCAL_RANK, which assigns a GPU to each process, is not set",
        ),
        ("cuda", {**JOB, "LOCAL_RANK": "2"}, DeviceError, "there is no cuda:2: this machine has 2 GPUs"),
        ("cuda", {"WORLD_SIZE": "2"}, UsageError, "WORLD_SIZE is 2 and RANK is not set"),
        ("cuda", {**JOB, "RANK": "2"}, UsageError, "WORLD_SIZE is 2 and RANK is 2"),
        ("cuda", {**JOB, "RANK": "one"}, UsageError, "the environment variable RANK='one' is not a whole number"),
    ],
)
def test_error_for_an_unavailable_device_names_the_cause(two_gpus, monkeypatch, name, env, kind, says):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(kind, match=says) as refused:
        choose_device(name)
    assert refused.value.hint
