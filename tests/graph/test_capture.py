"""A network and its captured graph compute the same; what cannot be captured is refused in one line."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from intraq_cli.errors import ModelError
from intraq_cli.graph.capture import capture
from intraq_cli.graph.layers import layers
from intraq_cli.graph.nodes import calls, tensors
from intraq_cli.graph.products import products
from tests.conftest import SmallNet, graph_of, trained

aten = torch.ops.aten


class Body(nn.Module):
    """A convolution, a batch norm and a classifier, with a place for unusual code in between."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def middle(self, x):
        return x

    def forward(self, x):
        return self.fc(self.middle(F.relu(self.norm(self.conv(x)))).mean((2, 3)))


def with_middle(function):
    return trained(type("Odd", (Body,), {"middle": function})())


def written_over(self, x):
    x[:, :2] = 0
    x[:, 2:4].mul_(2)
    flat = x.view(len(x), 6, -1)
    x += 1
    return flat[..., None] + x.flatten(2)[..., None]


def written_behind_a_view_of_a_view(self, x):
    turned = x.flatten(2).transpose(1, 2)
    same = F.dropout(x, 0.5, training=False)
    same.mul_(3)
    return turned.transpose(1, 2)[..., None]


def without_gradient(self, x):
    with torch.no_grad():
        return F.hardtanh_(F.relu_(x).add_(1), 0.5, 3)


def without_autocast(self, x):
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return x.float() * 2 + x.square()


def made_on_the_way(self, x):
    grid = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    return x * grid + torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)


def scaled_by_a_value(self, x):
    return x * x.mean().item()


def complex_filter(self, x):
    return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])


@pytest.mark.parametrize(
    "middle",
    [
        written_over,
        written_behind_a_view_of_a_view,
        without_gradient,
        without_autocast,
        made_on_the_way,
        scaled_by_a_value,
        complex_filter,
        lambda self, x: x,
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_captured_graph_computes_the_same_as_its_network(middle, batch, random):
    network = with_middle(middle)
    x = torch.randn(batch, 3, 8, 8, generator=random)
    given = x.clone()
    graph = graph_of(network)
    assert torch.equal(graph(x), network(x))
    assert torch.equal(x, given)
    assert not any(node.target._schema.is_mutable for node in calls(graph) if hasattr(node.target, "_schema"))


def test_captured_graph_shares_the_tensors_of_its_network(network):
    graph = graph_of(network)
    held = tensors(graph)
    assert held["conv1.weight"] is network.conv1.weight
    assert held["bn1.running_var"] is network.bn1.running_var
    assert not any(key.endswith("num_batches_tracked") for key in held)  # the graph does not read it


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


def test_squeeze_keeps_the_batch_dimension_of_a_single_image(random):
    network = with_middle(lambda self, x: F.adaptive_avg_pool2d(x, 1).squeeze()[..., None, None])
    graph, x = graph_of(network), torch.randn(3, 3, 8, 8, generator=random)
    assert torch.equal(graph(x), network(x))
    assert graph(x[:1]).shape == (1, 4)
    assert torch.allclose(graph(x[:1]), graph(x)[:1], atol=1e-6)


@pytest.mark.parametrize(
    "middle",
    [
        lambda self, x: x.as_strided((len(x), 6, 3), (6 * 36, 36, 1))[..., None],
        lambda self, x: torch.view_as_complex(x.unflatten(3, (3, 2))).abs(),
        lambda self, x: x.view(torch.int32).bitwise_and(-2).view(torch.float32),
    ],
)
def test_operations_that_depend_on_memory_layout_see_the_captured_layout(middle, random):
    network = with_middle(middle)
    graph, x = graph_of(network), torch.randn(2, 3, 8, 8, generator=random)
    wanted = network(x)
    for tensor in network.parameters():
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(graph(x.contiguous(memory_format=torch.channels_last)), wanted, atol=1e-5)


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


def test_common_beginning_of_several_branches_is_computed_once(random):
    def branches(self, x):
        return F.relu(x - 1) + 2 * F.relu(x - 1) + F.leaky_relu(x - 1, 0.1) + F.leaky_relu(x - 1, 0.2)

    network = with_middle(branches)
    graph, x = graph_of(network), torch.randn(3, 3, 8, 8, generator=random)
    found = [call.target for call in calls(graph, aten.sub.Tensor, aten.relu.default, aten.leaky_relu.default)]
    assert found == [aten.relu.default, aten.sub.Tensor, aten.relu.default, *2 * [aten.leaky_relu.default]]
    assert torch.equal(graph(x), network(x))


def test_equal_calls_that_draw_random_numbers_are_not_merged():
    graph = graph_of(with_middle(lambda self, x: x + torch.rand_like(x) + torch.rand_like(x)))
    assert len(calls(graph, aten.rand_like.default)) == 2
