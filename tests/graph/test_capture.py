"""Modules with hooks, parametrizations or traces are captured; what cannot be captured is refused in one line."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from intraq_cli.errors import ModelError
from intraq_cli.graph.capture import capture
from intraq_cli.graph.layers import layers
from intraq_cli.graph.products import products
from tests.conftest import SmallNet, graph_of, trained
from tests.graph.odd_code import Body, with_middle


class Shipped(Body):
    """Everything that modules may have besides their ``forward``."""

    def __init__(self):
        super().__init__()
        self.again = nn.SyncBatchNorm(6)
        self.pruned, self.normed, self.spectral = (nn.Conv2d(6, 6, 1) for _ in range(3))
        prune.l1_unstructured(self.pruned, "weight", 0.5)
        parametrizations.weight_norm(self.normed)
        parametrizations.spectral_norm(self.spectral)
        self.pruned.register_forward_hook(lambda module, args, out: 2 * out)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.register_buffer("unused", torch.ones(3, dtype=torch.complex64))

    def get_extra_state(self):
        return {"step": 7}

    def set_extra_state(self, state):
        pass

    def middle(self, x):
        x = self.spectral(self.normed(self.again(self.pruned(x))))
        flat = x.flatten(2).transpose(1, 2)
        return self.attention(flat, flat, flat, need_weights=False)[0].transpose(1, 2)[..., None]


def test_hooks_parametrizations_and_attention_are_captured(random):
    network = trained(Shipped())
    graph = graph_of(network)
    x = torch.randn(3, 3, 8, 8, generator=random)
    torch.testing.assert_close(graph(x), network(x))
    found = {layer.name: layer for layer in layers(graph)}
    computed = {"pruned", "normed", "spectral"}
    assert {name for name, layer in found.items() if layer.computed} == computed
    assert all(layer.float_reason is None for layer in found.values())
    assert {"attention.in_proj_weight", "attention.out_proj", "conv", "fc"} <= found.keys()
    assert [(product.name, product.kind) for product in products(graph)] == [("attention", "attention")]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_traced_modules_are_captured(random):
    network = trained(Body())
    network.conv = torch.jit.trace(network.conv, torch.randn(1, 3, 8, 8), check_trace=False)
    graph = graph_of(network)
    x = torch.randn(3, 3, 8, 8, generator=random)
    assert torch.equal(graph(x), network(x))
    assert [layer.name for layer in layers(graph)] == ["conv", "fc"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_code_that_cannot_be_captured_is_refused_with_a_hint():
    class Scripted(torch.jit.ScriptModule):
        """A ScriptModule, whose access to its own attributes torch.export does not see."""

        @torch.jit.script_method
        def forward(self, x):
            return x if self.training else -x

    network = trained(Body())
    network.script = Scripted().eval()
    network.middle = lambda x: network.script(x)
    with pytest.raises(ModelError, match="script was traced or scripted") as refused:
        graph_of(network)
    assert "PYTORCH_JIT=0" in refused.value.hint


def branch(self, x):
    return x if x.mean() > 0.1 else -x


def loop(self, x):
    while x.abs().mean() > 3:
        x = x / 2
    return x


def value_by_value(self, x):
    return x * torch.tensor(x.tolist()).mean()


def vmapped(self, x):
    return torch.vmap(lambda one: one * 2)(x)


def one_by_one(self, x):
    return x * sum(float(value) for value in x.flatten()[:100])


@pytest.mark.parametrize(
    ("middle", "says"),
    [
        (branch, "control flow depends on values of its input \\(.*test_capture.py, line .*: return x if x.mean"),
        (loop, "control flow depends on values of its input \\(.*line .*: while x.abs"),
        (value_by_value, "value by value .*test_capture.py, line"),
        (one_by_one, "value by value .*test_capture.py, line"),
        (vmapped, "uses torch.vmap"),
    ],
)
def test_code_that_cannot_be_captured_is_refused_with_its_line_and_a_hint(middle, says):
    network = with_middle(lambda self, x: x)
    network.middle = middle.__get__(network)
    with pytest.raises(ModelError, match=says) as caught:
        graph_of(network)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_control_flow_that_depends_on_a_buffer_is_refused_with_a_hint():
    network = with_middle(lambda self, x: x)
    network.register_buffer("stage", torch.full((1,), 3.0))
    network.middle = lambda x: -x if (network.stage >= 3).all() else x
    with pytest.raises(ModelError, match=r"own tensors .*test_capture\.py, line") as caught:
        graph_of(network)
    assert "Python numbers" in caught.value.hint


class Counting(SmallNet):
    """Its outputs differ from call to call, by a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return super().forward(x) * self.count


def test_network_that_changes_its_own_tensors_is_refused():
    with pytest.raises(ModelError, match="changes its own tensors"):
        graph_of(trained(Counting()))


def test_network_that_replaces_its_weights_in_forward_is_refused():
    class Limited(SmallNet):
        def forward(self, x):
            self.conv1.weight.data = torch.renorm(self.conv1.weight.data, 2, 0, 1.0)
            return super().forward(x)

    with pytest.raises(ModelError, match="replaces its own tensors as it runs"):
        graph_of(trained(Limited()))


def test_batch_norm_that_eval_does_not_reach_is_refused():
    class Listed(SmallNet):
        def __init__(self):
            super().__init__()
            self.norms = [nn.BatchNorm2d(3)]

        def forward(self, x):
            return super().forward(self.norms[0](x))

    with pytest.raises(ModelError, match="changes its own tensors") as caught:
        graph_of(trained(Listed()))
    assert "nn.ModuleList" in caught.value.hint


class Remembering(SmallNet):
    """Its outputs differ from call to call, by a number that the graph does not see."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls


def test_graph_that_computes_something_else_than_its_network_is_refused():
    with pytest.raises(ModelError, match="the network and its captured graph compute different results"):
        graph_of(trained(Remembering()))


class OneSize(SmallNet):
    def forward(self, x):
        return super().forward(x.reshape(2, 3, 8, 8))


def test_network_with_a_fixed_batch_size_is_refused():
    network = OneSize().eval().requires_grad_(False)
    with pytest.raises(ModelError, match="batches of one size"):
        capture(network, torch.randn(2, 3, 8, 8))


def test_capture_on_the_meta_device_gives_the_same_graph(network):
    real = graph_of(network)
    sketch = graph_of(copy.deepcopy(network).to("meta"))
    assert [(n.op, str(n.target), n.meta.get("shape")) for n in real.graph.nodes] == [
        (n.op, str(n.target), n.meta.get("shape")) for n in sketch.graph.nodes
    ]


@pytest.mark.parametrize("name", ["code", "graph", "meta", "class"])
@pytest.mark.parametrize("module", [False, True])
def test_name_that_torch_or_python_reserves_is_refused_with_the_name(name, module):
    network = Body().eval()
    if module:
        network.add_module(name, nn.PReLU(6))
    else:
        network.register_parameter(name, nn.Parameter(torch.ones(1)))
    network.middle = lambda x: getattr(network, name)(x) if module else x * getattr(network, name)
    with pytest.raises(ModelError, match=f"reserves the name '{name}{'.weight' * module}'") as refused:
        graph_of(network)
    assert "rename" in refused.value.hint


@pytest.mark.parametrize("name", ["code", "graph", "meta", "class"])
def test_reserved_name_of_a_module_without_tensors_is_no_obstacle(name, random):
    network = Body().eval()
    network.add_module(name, nn.Sigmoid())
    network.middle = lambda x: getattr(network, name)(x)
    graph, x = graph_of(network), torch.randn(2, 3, 8, 8, generator=random)
    assert torch.allclose(graph(x), network(x), atol=1e-5)


def test_line_that_fixes_the_batch_size_is_named():
    network = Body().eval()
    network.middle = lambda x: x.reshape(2, 6, 6, 6)  # the line that the message quotes
    with pytest.raises(ModelError, match=r"one size only .*test_capture\.py, line \d+: .*reshape\(2, 6, 6, 6\)"):
        graph_of(network)
