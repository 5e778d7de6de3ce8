"""Placement ``integer``: the simulation is what integer arithmetic computes."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.errors import RecipeError
from intraq_cli.graph.nodes import tensor_of
from intraq_cli.graph.proof import relative_error
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import bias_of
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.recipe import Quantization, Recipe, choose_placement
from tests.conftest import SmallNet, frozen_student, graph_of, student_of, trained


def calibrated(graph, w=4, a=4, **kwargs):
    form = form_of(graph, "integer")
    student = student_of(graph, w, a, "integer")
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    calibrate(student, form, images, Quantization(**kwargs))
    return student


def test_activations_read_only_by_layers_have_low_bits_and_others_eight(graph):
    plan = plan_quantization(form_of(graph, "integer"), 4, 4, "integer")
    assert plan.activations == {
        "image.output": 8,
        "conv1.output": 4,  # read by conv2 alone
        "conv2.output": 8,  # by conv3 and the sum
        "conv3.output": 8,  # by the sum
        "output": 8,  # the sum, with its ReLU, is read by the pooling
        "#1.output": 4,  # the pooling, by the classifier
        "conv3.input": 4,
    }
    assert plan_quantization(form_of(graph, "integer"), 8, 8, "integer").activations == dict.fromkeys(
        [name for name in plan.activations if name != "conv3.input"], 8
    )


class Ending(nn.Module):
    """A network whose classifier is followed by something."""

    def __init__(self, end):
        super().__init__()
        self.conv, self.norm, self.end = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), end
        self.fc, self.other = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return self.end(self, x.mean((2, 3)))


@pytest.mark.parametrize(
    ("end", "more"),
    [
        (lambda net, x: net.fc(x), []),
        (lambda net, x: F.log_softmax(30 * net.fc(x), 1), []),
        (lambda net, x: (net.fc(x) + net.other(x)).clamp(-8, 8)[:, [4, 3, 2, 1, 0]], []),
        (lambda net, x: torch.cat([net.fc(x), net.other(x)], 1).sigmoid() * 2, []),
        (lambda net, x: net.fc(x).relu() * 2, ["fc.output"]),  # onnxruntime would run both as one float operation
        (
            lambda net, x: net.other(F.linear(net.fc(x).tanh(), net.fc.weight.T)),
            ["fc.output", "#1.output", "#2.output"],
        ),
    ],
)
def test_values_between_the_last_linear_layers_and_the_logits_stay_float(end, more):
    form = form_of(graph_of(trained(Ending(end))), "integer")
    plan = plan_quantization(form, 8, 8, "integer")
    assert list(plan.activations) == ["image.output", "conv.output", "output", *more]  # the third is the pooling's


def fake(x, grid):
    scale, zero = grid.scale().double(), grid.zero_point.double()
    return ((x / scale).round() + zero).clamp(0, grid.top).sub(zero) * scale


@pytest.mark.parametrize(("w", "a"), [(2, 2), (4, 4), (8, 8), (4, 8)])
def test_simulation_equals_integer_arithmetic_on_most_images(graph, w, a):
    student = calibrated(graph, w, a)
    stored, sites = student.freeze(), student.activation_quantizers
    biases = {name: tensor.double() for name, tensor in student.float_tensors.items()}

    def layer(name, x, scale, **settings):
        """Integer sums of codes, times one scale per channel."""
        codes, weight_scale, zero = (t.double() for t in stored[name])
        per_row = (-1,) + (1,) * (codes.dim() - 1)
        step = scale * weight_scale
        bias = (biases[f"{name}.bias"] / step).round()
        run = F.conv2d if codes.dim() == 4 else F.linear
        out = run((x / scale).round(), codes - zero.view(per_row), bias, **settings)
        assert torch.equal(out, out.round())
        return out * (step.view(1, -1, 1, 1) if codes.dim() == 4 else step)

    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scale = {name: site.scale().double() for name, site in sites.items()}
    image = fake(x.double(), sites["image.output"])
    first = fake(layer("conv1", image, scale["image.output"], padding=1).relu(), sites["conv1.output"])
    second = fake(layer("conv2", first, scale["conv1.output"], stride=2, padding=1).relu(), sites["conv2.output"])
    own = "conv3.input" if "conv3.input" in sites else "conv2.output"
    third = layer("conv3", fake(second, sites[own]), scale[own], padding=1, groups=2)
    summed = fake((second + fake(third, sites["conv3.output"])).relu(), sites["output"])
    pooled = fake(summed.mean((2, 3)), sites["#1.output"])
    expected = layer("fc", pooled, scale["#1.output"])
    got = student(x).double()
    close = (got - expected).abs().max(1).values < 1e-4
    assert (
        close.float().mean() >= 0.75
    )  # float32 may round a value between two codes the other way, which changes the rest


def test_weight_codes_fit_in_8_bits_and_sums_of_two_products_in_16(graph):
    """CPUs without integer dot products add pairs of products in 16 bits, with saturation."""
    form = form_of(graph, "integer")
    for w, a in itertools.product(range(2, 9), repeat=2):
        plan = plan_quantization(form, w, a, "integer")
        for name, bits in plan.weights.items():
            reads = 8 if name == "conv1" else a
            largest = plan.limits.get(name, 2**bits - 1)  # an asymmetric grid may lie entirely on one side of zero
            assert largest <= 127
            assert 2 * (2**reads - 1) * largest < 2**15
            assert 2 * plan.limits.get(name, 0) < 2**bits


def test_eight_bit_weights_are_symmetric(graph):
    for codes, scale, zero_point in calibrated(graph, 8, 8).freeze().values():
        assert (zero_point == 64).all()
        assert codes.max() <= 128
        assert (scale > 0).all()


def test_dead_channel_keeps_its_bias():
    network = trained(SmallNet())
    network.bn1.weight.data[2] = 0.0
    network.bn2.weight.data[1] = 1e-30
    graph = graph_of(network)
    student = calibrated(graph, 4, 8)
    wanted = {"conv1": (2, network.bn1.bias[2]), "conv2": (1, network.bn2.bias[1])}
    student.freeze()
    for call in [node for node in student.graph.graph.nodes if "bias_on_grid" in node.name]:
        held = tensor_of(student.graph, call.args[0])
        rounded = call.target(held, *(student.graph.get_submodule(str(n.target))() for n in call.args[1:]))
        steps = rounded / (rounded - held).abs().max().clamp(min=1e-12)
        assert steps.isfinite().all()
        for name, (channel, value) in wanted.items():
            if call.args[0].target == f"network.{name}.bias":
                assert rounded[channel].item() == pytest.approx(value.item(), rel=1e-3)


def test_correction_restores_mean_and_variance_of_a_folded_batch_norm(graph):
    """As corrected batch norms do with other placements, it gives channels the teacher's mean and variance."""
    form = form_of(graph, "integer")
    images = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    errors = {}
    for correction in ("never", "always"):
        student = student_of(graph, 2, 8, "integer")
        calibrate(student, form, images, Quantization(correction=correction, weight_rounding="nearest"))
        call = next(n for n in student.graph.graph.nodes if n.name.startswith("conv2d") and "conv2" in str(bias_of(n)))
        from intraq_cli.graph.outputs import add_outputs

        _, (got,) = add_outputs(student.graph, [call])(images)
        twin = next(n for n in form.graph.nodes if n.name == call.name)
        _, (wanted,) = add_outputs(form, [twin])(images)
        spread = wanted.std((0, 2, 3))
        errors[correction] = (
            ((got.mean((0, 2, 3)) - wanted.mean((0, 2, 3))) / spread).abs().max().item(),
            (got.std((0, 2, 3)) / spread).log().abs().max().item(),
        )
    assert max(errors["always"]) < 0.02 < max(errors["never"])


def test_channel_gains_and_biases_are_tuned(graph):
    from intraq_cli.tuning.optimizer import make_optimizer

    student = calibrated(graph)
    optimizer = make_optimizer(student, Recipe().tuning)
    tuned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, quantizer in student.latent.items():
        assert (quantizer.scale.log_gain is not None) == (name != "fc")
        if quantizer.scale.log_gain is not None:
            assert id(quantizer.scale.log_gain) in tuned
    assert {id(student.float_tensors[f"{name}.bias"]) for name in student.weights} <= tuned


@pytest.mark.parametrize("setting", ["weight_scale=recomputed", "activation_range=ema"])
def test_integer_placement_rejects_recipes_without_learned_scales(setting):
    sets = [f"quantization.{s}" for s in (setting, "weight_rounding=nearest", "correction=never")]
    with pytest.raises(RecipeError, match="integer does not work with"):
        choose_placement("integer", Recipe().override(sets))


def test_batch_norm_that_cannot_be_folded_has_a_quantized_output():
    class Pre(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.next, self.fc = (
                nn.Conv2d(3, 6, 3),
                nn.BatchNorm2d(12),
                nn.Conv2d(12, 6, 3),
                nn.Linear(6, 4),
            )

        def forward(self, x):
            x = self.conv(x)
            return self.fc(self.next(F.relu(self.norm(torch.cat([x, x * 2], 1)))).mean((2, 3)))

    plan = plan_quantization(form_of(graph_of(trained(Pre())), "integer"), 4, 4, "integer")
    assert plan.activations["norm.output"] == 4
    assert plan.activations["conv.output"] == 8


class PowerMean(nn.Module):
    """Generalised mean pooling: an average between two powers, whose range is too wide for a grid of a few bits."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(x.clamp(min=1e-6).pow(6).mean((2, 3)).pow(1 / 6))


def test_average_between_two_float_operations_stays_float():
    network = trained(PowerMean())
    student = frozen_student(network, 8, 8)
    assert len(student.activation_quantizers) == 3  # the image, the input of the powers, and the classifier's input
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    assert relative_error(network(x), student(x)) < 0.05


class SoftPool(nn.Module):
    """Averages weighted by ``exp(x)``, which a grid of eight bits would round to sums of zero."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6 * 16, 4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        weights = x.exp()
        pooled = F.avg_pool2d(x * weights, 2) / (F.avg_pool2d(weights, 2) + 1e-9)
        return self.fc(pooled.flatten(1))


def test_divisors_stay_float(random):
    network = trained(SoftPool())
    network.norm.weight.data *= 3
    nodes = frozen_student(network, 8, 8).site_nodes
    read = [str(node.args[0]) for node in nodes.values()]
    assert not any(name.startswith(("exp", "avg_pool2d_1")) for name in read)
    assert {"mul", "avg_pool2d"} <= set(read)
    assert frozen_student(network, 8, 8)(torch.randn(4, 3, 8, 8, generator=random)).isfinite().all()
