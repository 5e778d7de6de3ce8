"""What a plan quantizes, what stays float and why, and how much memory and computation that takes."""

import math
from collections.abc import Iterable

from torch import fx

from intraq_cli.graph.layers import Layer, layers
from intraq_cli.graph.nodes import argument_node
from intraq_cli.graph.products import Product, products
from intraq_cli.quantization.packing import packed_words
from intraq_cli.quantization.plan import Plan, bits_read
from intraq_cli.results import InspectedLayer

FLOAT_BITS = 32
"""Bits that a float factor counts in bit operations."""


def inspect_layers(graph: fx.GraphModule, plan: Plan) -> list[InspectedLayer]:
    """Return everything that multiplies, in the order of first calls: layers, and operations that stay float."""
    a_bits = bits_read(graph, plan)
    found = [
        (layer.calls[0], _layer(layer, plan, [a_bits.get(call) for call in layer.calls])) for layer in layers(graph)
    ]
    found += [(product.node, _product(product)) for product in products(graph)]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _layer(layer: Layer, plan: Plan, read: list[int | None]) -> InspectedLayer:
    w_bits, parameters = plan.weights.get(layer.name), math.prod(layer.shape)
    return InspectedLayer(
        name=layer.name,
        kind=layer.kind,
        weight_shape=layer.shape,
        input_shape=tuple(argument_node(layer.calls[0]).meta["shape"][1:]),
        calls=len(layer.calls),
        parameters=parameters,
        multiply_adds=layer.multiply_adds,
        w_bits=w_bits,
        a_bits=None if None in read else max(bits for bits in read if bits),
        bytes=4 * parameters if w_bits is None else weight_bytes(layer.shape, w_bits),
        float_reason=layer.float_reason,
        call_bits=read,
        call_multiply_adds=layer.call_multiply_adds,
    )


def _product(product: Product) -> InspectedLayer:
    x = product.node.all_input_nodes[0]
    return InspectedLayer(
        name=product.name,
        kind=product.kind,
        weight_shape=product.shape,
        input_shape=tuple(x.meta.get("shape", ()))[1:],
        calls=1,
        parameters=product.parameters,
        multiply_adds=product.multiply_adds,
        w_bits=None,
        a_bits=None,
        bytes=4 * product.parameters,
        float_reason=product.reason,
        call_bits=[None],
        call_multiply_adds=[product.multiply_adds],
    )


def low_bit_share(rows: list[InspectedLayer]) -> float:
    """Compute the percentage of multiply-adds whose factors are both quantized."""
    low = sum(adds for row in rows if row.w_bits for adds, bits in _calls(row) if bits)
    return 100 * low / sum(row.multiply_adds for row in rows)


def bit_operations(rows: list[InspectedLayer]) -> int:
    """Compute the bit operations for one image: multiply-adds times the bits of both factors."""
    return sum(adds * (row.w_bits or FLOAT_BITS) * (bits or FLOAT_BITS) for row in rows for adds, bits in _calls(row))


def _calls(row: InspectedLayer) -> Iterable[tuple[int, int | None]]:
    """Pair the multiply-adds and input bits of each call: some calls of a layer may read floats, others codes."""
    return zip(row.call_multiply_adds, row.call_bits, strict=True)


def weight_bits(rows: list[InspectedLayer]) -> int:
    """Sum the bits of all quantized weights."""
    return sum(row.parameters * row.w_bits for row in rows if row.w_bits)


def mean_bits(rows: list[InspectedLayer]) -> float:
    """Compute the mean bits of a quantized weight."""
    return weight_bits(rows) / sum(row.parameters for row in rows if row.w_bits)


def weight_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Return the bytes of a quantized weight in a checkpoint: codes, scales, zero-points and shape."""
    out = shape[0]
    return 4 * (out * packed_words(math.prod(shape[1:]), bits) + out + packed_words(out, bits)) + 8 * len(shape)
