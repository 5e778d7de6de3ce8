"""Pass: batch-norm folding into the convolutions before them.

This saves two passes over a convolution's output, one forward and one backward, and one tensor that would be kept for
gradients.
"""

import torch
from torch import Tensor, fx

from intraq_cli.graph.batch_norms import BatchNorm, batch_norms, slope_and_offset
from intraq_cli.graph.nodes import arguments, calls, copy_graph, finish, insert_call, insert_items, replace_call

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)


def fold_batch_norms(graph: fx.GraphModule) -> fx.GraphModule:
    """Fold every batch norm into the convolution before it, if nothing else reads that; except the first convolution.

    Weights are folded as the graph runs, so that gradients reach the batch norm's parameters as without folding.
    """
    graph = copy_graph(graph)
    # The first convolution, which reads the images, is not folded: folded in bfloat16, it was tuned 0.5 to 1.8 dB
    # worse, and agreement on real images fell by 0.3 points (ResNet-20, W3A3). Folding all others costs neither.
    convolutions = calls(graph, *CONVOLUTIONS)[1:]
    for norm in batch_norms(graph):
        if norm.x in convolutions and len(norm.x.users) == 1:
            _fold(graph, norm)
    return finish(graph)


def _fold(graph: fx.GraphModule, norm: BatchNorm) -> None:
    convolution = norm.x
    given = arguments(convolution)
    # at the position of the batch norm, where all of its tensors are computed already
    made = insert_call(graph, norm.node, folded_weight_and_bias, given["weight"], given["bias"], *norm.nodes)
    weight, bias = insert_items(graph, norm.node, made, 2)
    out = replace_call(graph, norm.node, convolution.target, given["input"], weight, bias, *convolution.args[3:])
    out.meta = {**norm.node.meta, "weight_shape": convolution.meta["weight_shape"]}


def folded_weight_and_bias(
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute weight ``(out, in, h, w)`` and bias ``(out,)`` of the convolution that includes the batch norm."""
    slope, offset = slope_and_offset(running_mean, running_var, gamma, beta, eps)
    return weight * slope[:, None, None, None], offset if bias is None else offset + slope * bias
