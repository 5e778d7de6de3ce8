"""Calibration, before any tuning: activation ranges, weight rounding, and corrections of batch norms and biases.

One run of the network calibrates all layers. When a layer or an activation quantizer is called, its input carries the
errors of everything before it, and everything after it runs with the grid that is set there.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.errors import ModelError
from intraq_cli.graph.batch_norms import batch_norms, folded_outputs, moments_of, normalized_layers, sample_output
from intraq_cli.graph.layers import LAYERS, is_linear, run_layer
from intraq_cli.graph.nodes import argument_node, tensor_of
from intraq_cli.graph.values import PADS
from intraq_cli.quantization.affine import fake_quantize, grid_of_range, grid_of_values, joined_grid, range_of_grid
from intraq_cli.quantization.float_statistics import FloatRun, Moments, channel_moments, float_statistics
from intraq_cli.quantization.input_moments import compensated, damped, rows_read, second_moments
from intraq_cli.quantization.network import QuantizedNetwork, bias_of, bias_on_grid
from intraq_cli.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from intraq_cli.recipe import Quantization

CALIBRATION_IMAGES = 128
"""Number of images to calibrate on, if there are that many."""
RATIO = 10.0
"""Largest factor, up or down, by which a variance is corrected: beyond it a channel is taken to be dead."""
IMAGES_PER_RANGE = 16
"""Number of images on which candidates for an activation's range are compared by the next layer's output error."""
FACTORS = tuple(2 ** (k / 8) for k in range(-8, 7))
"""These candidates, as multiples of the error-minimising range."""
LARGEST_BIAS = 2.0**24
"""Largest code of a bias: float32 represents it exactly, and sums that include it fit 32 bits."""
WIDER = 1.1
"""Factor that widens the range of sampled values, for each bit above 4: real values reach further than samples from a
normal distribution, and a finer grid loses little from a wider range."""
COMPENSATED = 6
"""Weights compensate for errors of the layers before if all activations have at least this many bits. Measured: with 8
bits the divergence falls by a sixth to a third; with 3 and 4 most of a layer's input error comes from the rounding of
that input itself, and nothing is gained."""
LEAST_VARIANCE = 1e-5
"""Added to a channel's variance, relative to its batch norm's running variance; the default ``eps`` of torch."""


@torch.no_grad()
def calibrate(
    student: QuantizedNetwork,
    teacher: fx.GraphModule,
    images: Tensor,
    config: Quantization,
    sampled: bool = False,
    pooled: Mapping[str, Tensor] | None = None,
) -> None:
    """Set all grids and round all weights of ``student``; correct its batch norm statistics if ``config`` says so.

    Args:
        student: made from a copy of ``teacher`` with its own tensors, on the same device; its weights are still float.
        teacher: the float network's graph.
        images: ``(B, C, H, W)``, on the same device; all run in one batch.
        config: the recipe's quantization section.
        sampled: make every batch norm output samples from its own statistics, independent of ``images``.
        pooled: values by site, ``(B, C, ...)``, that ranges must cover too; see ``ranges.clipped_pooled_values``.

    Raises:
        ModelError: an activation is NaN or infinite.
    """
    expected = float_statistics(teacher, images, sampled)
    bits = min(student.plan.activations.values(), default=COMPENSATED)
    # sampled values are unrelated to the float network's, so there is nothing to compensate
    comparable = config.weight_rounding == "gptq" and not sampled and bits >= COMPENSATED
    run = FloatRun(teacher, images) if comparable else None
    calibrator = _Calibrator(student, config, expected, run, sampled, pooled or {})
    calibrator.run(images)
    calibrator.write_statistics()
    for name, quantizer in calibrator.quantizers.items():
        student.set_weight(name, quantizer)
    for name, activation in student.activation_quantizers.items():
        if not (activation.scale() + activation.zero_point).isfinite():
            raise ModelError(
                f"the quantized network has NaN or infinite values at {name}",
                "try another --act-placement, or more bits",
            )
        activation.scale.learn(config.activation_scale == "learned")


class _Calibrator(fx.Interpreter):
    """Runs a student's graph node by node; sets each quantizer's grid when it is called, and continues with it."""

    def __init__(
        self,
        student: QuantizedNetwork,
        config: Quantization,
        expected: tuple[list[Moments], dict[str, Moments]],
        run: FloatRun | None,
        sampled: bool,
        pooled: Mapping[str, Tensor],
    ) -> None:
        super().__init__(student.graph)
        self.student, self.config, self.float_run = student, config, run
        self.float_inputs, self.float_outputs = expected
        self.sampled, self.correct = sampled, config.correction == "always"
        self.quantizers: dict[str, WeightQuantizer] = {}
        self.weights: dict[Any, str] = {node: name for name, node in student.weight_nodes.items()}
        quantizers, site_nodes = student.activation_quantizers, student.site_nodes
        self.activations = {node: quantizers[name] for name, node in site_nodes.items()}
        self.pooled = {site_nodes[name]: values for name, values in pooled.items()}
        self.norms = {norm.node: (k, norm) for k, norm in enumerate(batch_norms(student.graph))}
        self.folded = {output.node: (k, output) for k, output in enumerate(folded_outputs(student.graph))}
        self.normalized = normalized_layers(student.graph)
        self.corrected_biases: set[int] = set()
        self.corrected: dict[fx.Node, list[tuple[Tensor, Tensor]]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as the interpreter does, except for quantizers, layers and batch norms."""
        if n in self.weights:
            return None  # the weight is rounded later, when its layer's input is known
        if n.target is bias_on_grid:  # the bias is rounded later, when the weight's scale is known
            return tuple(self.env[argument_node(n, k)] for k in (0, 1))
        if n in self.activations:
            return self._activation(n, self.env[argument_node(n)])
        if n.op == "call_function" and n.target in LAYERS and n.args[1] in self.weights:
            return self._layer(n, self.weights[n.args[1]])
        if n in self.norms and (self.correct or self.sampled):
            return self._batch_norm(n)
        return super().run_node(n)

    def write_statistics(self) -> None:
        """Write the corrected statistics to the student's batch norms, averaged over all calls of the same one."""
        for node, found in self.corrected.items():
            held = self.norms[node][1].tensors(self.student.graph)
            held.running_mean.copy_(torch.stack([mean for mean, _ in found]).mean(0))
            held.running_var.copy_(torch.stack([var for _, var in found]).mean(0))

    def _layer(self, call: fx.Node, name: str) -> Tensor:
        """Run a layer; at its first call, round its weight and correct its output."""
        x: Tensor = self.env[argument_node(call)]
        first = name not in self.quantizers
        if first:
            self.quantizers[name] = self._rounded(call, name, x, self.student.weights[name]())
        quantizer = self.quantizers[name]
        out = run_layer(call, x, quantizer(), self._bias(call, quantizer))
        if first and self.correct and self._correct_output(call, quantizer, out):
            out = run_layer(call, x, quantizer(), self._bias(call, quantizer))
        if self.sampled and call in self.folded:
            k, output = self.folded[call]
            out = output.sample(out, k)
        return out

    def _bias(self, call: fx.Node, quantizer: WeightQuantizer) -> Tensor | None:
        bias: Any = None if call.args[2] is None else self.env[argument_node(call, 2)]
        return bias_on_grid(bias[0], bias[1], quantizer.scale()) if isinstance(bias, tuple) else bias

    def _correct_output(self, call: fx.Node, quantizer: WeightQuantizer, out: Tensor) -> bool:
        """Correct the mean of a layer's output to the float network's and, with a folded batch norm, the variance too.

        Returns whether that changed anything.
        """
        wanted, bias = self.float_outputs.get(call.name), tensor_of(self.student.graph, bias_of(call))
        if wanted is None or bias is None or id(bias) in self.corrected_biases:
            return False
        self.corrected_biases.add(id(bias))  # two layers may share a bias: it corrects only the first one's error
        got = channel_moments(out, is_linear(call))
        if call not in self.folded or quantizer.scale.log_gain is None:
            bias.add_(wanted[0] - got[0])
            return True
        least = LEAST_VARIANCE * self.folded[call][1].deviation.square() + torch.finfo(out.dtype).tiny
        ratio = ((got[1] + least) / (wanted[1] + least)).clamp(1 / RATIO, RATIO)
        quantizer.scale.log_gain.sub_(0.5 * ratio.log())
        bias.copy_((bias - got[0]) / ratio.sqrt() + wanted[0])
        return True

    def _rounded(self, call: fx.Node, name: str, x: Tensor, weight: Tensor) -> WeightQuantizer:
        moments = least = rows = None
        how: Any = (weight, call in self.normalized, len(self.quantizers))
        if self.config.rounds_by_inputs:
            rows = rows_read(call, x, *how)
        if rows is not None:
            moments = second_moments(rows)
            float_rows = rows_read(call, self.float_run.read_by(call.name), *how) if self.float_run else None
            weight = weight if float_rows is None else compensated(weight, moments, rows, float_rows)
            moments = damped(moments, rows.shape[1])
        held = None if call.args[2] is None else self.env[argument_node(call, 2)]
        if isinstance(held, tuple):
            bias, input_scale = held
            least = (bias.abs() / (LARGEST_BIAS * input_scale)).clamp(min=1e-20)
        plan = self.student.plan
        limit, gain = plan.limits.get(name), call in self.folded and self.config.weight_scale == "learned"
        bits = plan.weights[name]
        return WeightQuantizer(weight, bits, self.config, moments, limit=limit, least_scale=least, learn_gain=gain)

    def _activation(self, node: fx.Node, x: Tensor) -> Tensor:
        quantizer = self.activations[node]
        scale, zero_point = grid_of_values(x, quantizer.top)
        if self.sampled:
            scale = scale * max(1.0, WIDER ** (quantizer.bits - 4))
        seen, pooled = x[:IMAGES_PER_RANGE], self.pooled.get(node)
        if pooled is not None:
            scale, zero_point = joined_grid((scale, zero_point), grid_of_values(pooled, quantizer.top), quantizer.top)
            seen = torch.cat([seen, pooled])
        quantizer.set_grid(scale, zero_point)
        reader = self._reader(node)
        if reader is not None and self.config.activation_range == "output":
            self._fit_to_output(quantizer, seen, node, reader)
        return quantizer(x)

    def _reader(self, node: fx.Node) -> fx.Node | None:
        """Return the first layer that reads an activation; in ``integer``, None unless only layers or pads read it."""
        integer = self.student.plan.placement == "integer"
        found = [self._reader(user) if integer and user.target in PADS else user for user in node.users]
        layers = [n for n in found if n is not None and n.target in LAYERS and n.args[1] in self.weights]
        return layers[0] if layers and (not integer or len(layers) == len(found)) else None

    def _fit_to_output(self, quantizer: ActivationQuantizer, x: Tensor, node: fx.Node, reader: fx.Node) -> None:
        """Scale an activation's range by the factor that minimises the output error of the layer that reads it."""
        weight = self.student.weights[self.weights[reader.args[1]]]()
        bias = tensor_of(self.student.graph, bias_of(reader))
        pad = argument_node(reader)
        if pad is not node:
            x = pad.target(x, *pad.args[1:])  # type: ignore[operator]
        wanted = run_layer(reader, x, weight, bias)
        per_channel = tuple(k for k in range(wanted.dim()) if k != 1) if reader in self.normalized else None
        variance = wanted.var(per_channel, keepdim=True).clamp(min=1e-12)
        top = quantizer.top
        low, high = range_of_grid(quantizer.scale(), quantizer.zero_point, top)
        best = torch.inf
        for factor in FACTORS:
            grid = grid_of_range(low * factor, high * factor, top)
            got = run_layer(reader, fake_quantize(x, *grid, top), weight, bias)
            error = float(((got - wanted).square() / variance).mean())
            if error < best:
                best = error
                quantizer.set_grid(*grid)

    def _batch_norm(self, node: fx.Node) -> Tensor:
        """Normalise by statistics corrected for the effect of quantization on the input.

        Each channel's running mean and variance are shifted by the difference between student and teacher on the same
        images. This is exact where the student's channel is an affine function of the teacher's; then it hardly matters
        how realistic the images are. When a layer is called, all layers before it are corrected already. In the spirit
        of bias correction (Nagel et al. 2019), for mean and variance, and without data.
        """
        k, norm = self.norms[node]
        x: Tensor = self.env[norm.x]
        held = norm.tensors(self.student.graph)
        mean, var = held.running_mean, held.running_var
        if self.correct:
            expected_mean, expected_var = self.float_inputs[k]
            got_mean, got_var = moments_of(x, mean.dtype)
            ratio = ((got_var + norm.eps) / (expected_var + norm.eps)).clamp(1 / RATIO, RATIO)
            mean = got_mean + ratio.sqrt() * (mean - expected_mean)
            var = ((var + norm.eps) * ratio - norm.eps).clamp(min=0)
            first = next(n for n, (_, other) in self.norms.items() if other.running_mean is norm.running_mean)
            self.corrected.setdefault(first, []).append((mean, var))
        if self.sampled:
            return sample_output(x, held.weight, held.bias, k)
        return F.batch_norm(x, mean, var, held.weight, held.bias, eps=norm.eps)
