"""Pooling, rewritten to a form that all runtimes compute in the same way.

ONNX has neither ``divisor_override`` nor adaptive max pooling. Where a window reaches beyond the padding, onnxruntime's
integer kernel counts zeros, and torch counts nothing.
"""

import operator
from itertools import chain

import torch
from torch import fx

from intraq_cli.graph.nodes import arguments, insert_call, pair, per_dimension, replace_call

aten = torch.ops.aten

AVERAGE_POOLS = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


def average_pool(graph: fx.GraphModule, node: fx.Node) -> None:
    """Rewrite average pooling whose windows reach beyond padding that counts, or that has a ``divisor_override``.

    In the first case (``ceil_mode``), the padding becomes a separate call, and what lies beyond it does not count.
    ``divisor_override`` becomes a mean and a product.
    """
    given = arguments(node)
    dims = 1 + AVERAGE_POOLS.index(node.target)
    kernel, padding, stride = (list(per_dimension(given[name], dims)) for name in ("kernel_size", "padding", "stride"))
    stride = stride or kernel
    sizes, out = (x.meta["val"].shape[-dims:] for x in (given["self"], node))
    windows = zip(sizes, out, kernel, stride, padding, strict=True)
    beyond = [max(0, (o - 1) * s + k - (size + 2 * p)) for size, o, k, s, p in windows]
    divisor = given.get("divisor_override")
    if divisor is None and not (given["count_include_pad"] and any(beyond)):
        return
    ends = zip(padding, beyond if divisor else [0] * dims, strict=True)
    pads = list(chain.from_iterable((p, p + more) for p, more in reversed(list(ends))))
    x = insert_call(graph, node, aten.constant_pad_nd.default, given["self"], pads) if any(pads) else given["self"]
    settings = (kernel, stride, [0] * dims)
    if divisor:
        mean = insert_call(graph, node, node.target, x, *settings)
        replace_call(graph, node, aten.mul.Tensor, mean, torch.Size(kernel).numel() / divisor)
        return
    made = insert_call(graph, node, node.target, x, *settings, True, False)
    for dim, (size, o, s, p) in enumerate(zip(sizes, out, stride, padding, strict=True)):
        if o * s < size + 2 * p:  # torch omits a window that would start in the padding at the end
            made = insert_call(graph, node, aten.slice.Tensor, made, dim - dims, 0, o)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)


def adaptive_max_pool(graph: fx.GraphModule, node: fx.Node) -> None:
    """Rewrite ``adaptive_max_pool2d`` as ``max_pool2d`` if all windows have one size and its indices are not read."""
    given = arguments(node)
    sizes, out = given["self"].meta["val"].shape[-2:], pair(given["output_size"])
    items = [user for user in node.users if user.users]
    indices = any(item.target is not operator.getitem or item.args[1] != 0 for item in items)
    if indices or any(size % o for size, o in zip(sizes, out, strict=True)):
        return
    windows = [size // o for size, o in zip(sizes, out, strict=True)]
    made = insert_call(graph, node, aten.max_pool2d.default, given["self"], windows, windows)
    for item in items:
        item.replace_all_uses_with(made)


POOLING = {**dict.fromkeys(AVERAGE_POOLS, average_pool), aten.adaptive_max_pool2d.default: adaptive_max_pool}
"""Operation to the function that rewrites it."""
