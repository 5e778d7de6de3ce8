"""Batch norms of a graph, and passes that return their inputs' statistics or replace their outputs by samples."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import (
    also_return,
    argument_node,
    arguments,
    calls,
    constant_nodes,
    constant_value,
    copy_graph,
    finish,
    insert_call,
    insert_items,
    key_of,
    names_of_calls,
    path_of,
    sources,
)

aten = torch.ops.aten

PARTS = (
    aten.slice.Tensor, aten.select.int, aten.reshape.default, aten.flatten.using_ints,
    aten.squeeze.dim, aten.squeeze.dims,
)  # fmt: skip
"""Calls whose output shares memory with their input, a contiguous tensor."""


@dataclass(frozen=True)
class BatchNorm:
    """A call that normalises ``(B, C, H, W)`` with running statistics."""

    name: str
    node: fx.Node
    x: fx.Node
    weight: fx.Node | None
    bias: fx.Node | None
    running_mean: fx.Node
    running_var: fx.Node
    eps: float

    @property
    def nodes(self) -> tuple[fx.Node, fx.Node, fx.Node | None, fx.Node | None, float]:
        """The nodes of its :class:`Parameters`, in the same order."""
        return self.running_mean, self.running_var, self.weight, self.bias, self.eps

    def tensors(self, graph: fx.GraphModule) -> "Parameters":
        """Return its parameters in ``graph``."""
        mean, var = (constant_value(graph, node) for node in (self.running_mean, self.running_var))
        weight, bias = (None if node is None else constant_value(graph, node) for node in (self.weight, self.bias))
        return Parameters(mean, var, weight, bias, self.eps)


class Parameters(NamedTuple):
    """The tensors of a batch norm, ``(C,)`` each, and the ``eps`` that it adds to variances."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class LayerStatistics(NamedTuple):
    """Statistics of one batch norm's input, and its running statistics; all ``(C,)`` except ``eps``."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float


def batch_norms(graph: fx.GraphModule) -> list[BatchNorm]:
    """Return the batch norms on images, in the order of calls; not those on vectors, or that use batch statistics."""
    found = []
    constant = constant_nodes(graph)
    nodes = [node for node in calls(graph, aten.batch_norm.default) if _on_images(node, constant)]
    for node, name in names_of_calls(nodes, _module_of).items():
        given = arguments(node)
        keys = ("input", "weight", "bias", "running_mean", "running_var", "eps")
        found.append(BatchNorm(name, node, *(given[key] for key in keys)))
    return found


def _module_of(node: fx.Node) -> str:
    """Return the module that made the call; if the network itself did, the module that holds the statistics."""
    (held,) = sources(arguments(node)["running_mean"])
    return path_of(node) or key_of(held).rpartition(".")[0] or "network"


def norm_parameters(graph: fx.GraphModule) -> list[Parameters]:
    """Return the parameters of :func:`batch_norms` in ``graph``."""
    return [norm.tensors(graph) for norm in batch_norms(graph)]


def _on_images(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether it normalises images with stored statistics; weight and bias may be computed."""
    given = arguments(node)
    held = [given[key] for key in ("running_mean", "running_var")]
    computed = [given[key] for key in ("weight", "bias") if given[key] is not None]
    own = all(tensor is not None and _is_held(tensor) for tensor in held) and constant.issuperset(computed)
    return own and not given["training"] and len(node.meta["shape"]) == 4


def _is_held(node: fx.Node) -> bool:
    """Whether a value is a stored tensor or a view of one (ghost batch norm), so that writes to it persist."""
    return node.op == "get_attr" or (node.target in PARTS and _is_held(argument_node(node)))


def slope_and_offset(
    running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute slope and offset of a batch norm as an affine function per channel; ``(C,)`` each, differentiable."""
    slope = (running_var + eps).rsqrt()
    if weight is not None:
        slope = slope * weight
    offset = -running_mean * slope
    return slope, offset if bias is None else offset + bias


def add_statistics(graph: fx.GraphModule, sampled: bool = False) -> fx.GraphModule:
    """Pass: return ``(previous output, moments)``: also mean and variance of every batch norm's input.

    ``moments`` is a list of pairs, in the order of :func:`batch_norms`; the variance is biased, over (B, H, W).
    Normalisation and statistics share one forward and one backward pass over the input.

    Args:
        graph: see :mod:`intraq_cli.graph`.
        sampled: make every batch norm output samples from its own statistics, see :func:`sample_output`: they stand for
            its output on real images, so that nothing depends on the given images any more.
    """
    graph = copy_graph(graph)
    moments = []
    for k, norm in enumerate(batch_norms(graph)):
        x = norm.node.args[0]  # not norm.x: the output of another batch norm may have been replaced since
        made = insert_call(graph, norm.node, normalize_with_moments, x, *norm.nodes)
        out, mean, var = insert_items(graph, norm.node, made, 3)
        if sampled:
            out = insert_call(graph, norm.node, sample_output, x, norm.weight, norm.bias, k)
        norm.node.replace_all_uses_with(out)
        graph.graph.erase_node(norm.node)
        moments.append((mean, var))
    also_return(graph, moments)
    return finish(graph)


def statistics(norms: list[Parameters], moments: list[tuple[Tensor, Tensor]]) -> list[LayerStatistics]:
    """Combine ``moments``, as returned by the graph of :func:`add_statistics`, with the running statistics."""
    return [
        LayerStatistics(mean, var, norm.running_mean, norm.running_var, norm.eps)
        for (mean, var), norm in zip(moments, norms, strict=True)
    ]


def normalize_with_moments(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a batch norm's output ``(B, C, H, W)``, and its input's mean and biased variance, ``(C,)`` each."""
    slope, offset = slope_and_offset(running_mean, running_var, weight, bias, eps)
    return _AffineWithMoments.apply(x, slope.detach(), offset.detach())


def sample_output(x: Tensor, weight: Tensor | None, bias: Tensor | None, seed: int) -> Tensor:
    """Sample ``N(beta, gamma^2)`` per channel, in the shape of ``x`` ``(B, C, H, W)``; the seed alone fixes the values.

    Half of the variance is shared by all positions of a channel, as neighbouring positions of real images correlate.
    """
    generator = torch.Generator().manual_seed(seed)
    each = torch.randn(x.shape, generator=generator)
    common = torch.randn(*x.shape[:2], 1, 1, generator=generator)
    noise = ((each + common) * 0.5**0.5).to(x.device, x.dtype)
    noise = noise if weight is None else noise * _channels(weight)
    return noise if bias is None else noise + _channels(bias)


@dataclass(frozen=True)
class NormalizedOutput:
    """The output of a batch norm: of its own call, or of the layer that it is folded into."""

    name: str
    """Name of the batch norm."""
    node: fx.Node
    mean: Tensor
    """Mean per channel by its parameters, ``(C,)``; likewise the standard deviation."""
    deviation: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance over all values of all channels by its parameters, ``()``."""
        return (self.deviation.square().mean() + self.mean.var(correction=0)).detach()

    def sample(self, x: Tensor, seed: int) -> Tensor:
        """Sample the output, see :func:`sample_output`."""
        return sample_output(x, self.deviation, self.mean, seed)


def normalized_output(name: str, node: fx.Node, held: Parameters) -> NormalizedOutput:
    """Describe the output of a batch norm with these parameters: mean beta and standard deviation gamma."""
    none = torch.zeros_like(held.running_mean)
    gamma = torch.ones_like(none) if held.weight is None else held.weight
    return NormalizedOutput(name, node, none if held.bias is None else held.bias, gamma)


EPS = 2.0**-20
"""``eps`` of a batch norm that divides by 1: a power of two, so that ``(1 - EPS) + EPS`` is exactly 1 in float32."""

FOLDED = "folded"
"""Key in the ``meta`` of a layer's call: the :class:`NormalizedOutput` of the batch norm that is folded into it."""


def folded_outputs(graph: fx.GraphModule) -> list[NormalizedOutput]:
    """Return the outputs of layers with a folded batch norm, in the order of calls."""
    return [replace(node.meta[FOLDED], node=node) for node in calls(graph, *LAYERS) if FOLDED in node.meta]


def normalized_outputs(graph: fx.GraphModule) -> list[NormalizedOutput]:
    """Return the outputs of all batch norms, folded or not, in the order of calls."""
    own = [normalized_output(norm.name, norm.node, norm.tensors(graph)) for norm in batch_norms(graph)]
    return sorted([*own, *folded_outputs(graph)], key=lambda output: output.node)


def normalized_layers(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the calls whose output is normalised by a batch norm after it or folded into it."""
    return {norm.x for norm in batch_norms(graph)} | {output.node for output in folded_outputs(graph)}


def sample_folded(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: replace the outputs of layers with a folded batch norm by samples, see :func:`sample_output`."""
    graph = copy_graph(graph)
    for k, output in enumerate(folded_outputs(graph)):
        made = insert_call(graph, output.node.next, output.sample, output.node, k)
        output.node.replace_all_uses_with(made, lambda user, own=made: user is not own)  # type: ignore[misc]
    return finish(graph)


class _AffineWithMoments(torch.autograd.Function):
    """Computes ``y = slope * x + offset`` per channel, and the mean and biased variance of ``x`` over (B, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = moments_of(x, slope.dtype)
        ctx.save_for_backward(x, slope, mean)
        return _affine(x, slope, offset), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, None, None]:
        # d mean / d x = 1/n and d var / d x = 2 (x - mean) / n: both are affine in x, per channel
        x, slope, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        times = 2 * grad_var / n
        plus = grad_mean / n - times * mean
        through = _affine(x, times, plus)
        if x.dtype == slope.dtype:
            return through.addcmul_(grad, _channels(slope)), None, None
        return through.add_(_affine(grad, slope, torch.zeros_like(slope))), None, None


def moments_of(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance over (B, H, W), ``(C,)`` each, in ``dtype`` even if ``x`` is bfloat16."""
    like = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
    mean, var = torch.batch_norm_update_stats(x, like, torch.ones_like(like), 0.0)
    return mean, var


def _affine(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Compute ``slope * x + offset`` per channel in ``x``'s type; bfloat16 in ``slope``'s type, rounded once."""
    if x.dtype == slope.dtype:
        return torch.addcmul(_channels(offset), x, _channels(slope))
    none = torch.zeros_like(slope)
    return F.batch_norm(x, none, none + (1 - EPS), slope, offset, eps=EPS)  # CUDA does not accept eps=0


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]  # (C,) -> (C, 1, 1), against (B, C, H, W)
