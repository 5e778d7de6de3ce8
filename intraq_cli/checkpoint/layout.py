"""The tensors in ``model.safetensors`` and its exact size in bytes, before any of them is computed."""

import json
import math

from torch import fx

from intraq_cli.checkpoint.keys import float_names, grid_keys, site_prefix, weight_keys
from intraq_cli.io.untrusted import TensorInfo
from intraq_cli.models.meta_build import DTYPES, info_of
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.packing import packed_words
from intraq_cli.quantization.plan import Plan

METADATA = {"format": "pt"}
"""Metadata of the file; only one entry, since the order of several would vary between runs."""
ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPES.items()}
"""Bytes per value of each type, in the format's order: a file sorts tensors by type, the last first, then by name."""
ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this many bytes; its length is stored before it in as many."""


def stored_tensors(network: QuantizedNetwork, header: dict[str, TensorInfo] | None = None) -> dict[str, TensorInfo]:
    """Return the tensors in a checkpoint of a network, by name; the network may be on the meta device.

    Args:
        network: with quantizers, calibrated or not.
        header: header of an existing file, whose float types are accepted for unquantized tensors.
    """
    held, floats, found = header or {}, network.float_tensors, stored_quantizers(network)
    names = float_names(floats, found)
    return found | {names[key]: info_of(tensor, held.get(names[key])) for key, tensor in floats.items()}


def stored_quantizers(network: QuantizedNetwork) -> dict[str, TensorInfo]:
    """Return the part of :func:`stored_tensors` that belongs to quantizers: codes and grids."""
    plan, found = network.plan, dict[str, TensorInfo]()
    for name, bits in plan.weights.items():
        key, shape = network.weight_keys[name], tuple(network.weights[name].weight.shape)
        rows, row = shape[0], math.prod(shape[1:])
        of_weight = weight_keys(key)
        found[of_weight.packed] = TensorInfo("I32", (rows, packed_words(row, bits)))
        found[of_weight.scale] = TensorInfo("F32", (rows, 1))
        found[of_weight.zero_point] = TensorInfo("I32", (packed_words(rows, bits), 1))
        found[of_weight.shape] = TensorInfo("I64", (len(shape),))
    for site in plan.activations:
        of_grid = grid_keys(site_prefix(plan, site))
        found[of_grid.scale] = TensorInfo("F32", ())
        found[of_grid.zero_point] = TensorInfo("U8", ())
    return found


def checkpoint_bytes(graph: fx.GraphModule, plan: Plan) -> int:
    """Return the file size of a float ``graph``, in the form of the plan's placement, once it is quantized."""
    return file_bytes(stored_tensors(QuantizedNetwork(graph, plan)))


def file_bytes(tensors: dict[str, TensorInfo]) -> int:
    """Return the size of the file that :func:`intraq_cli.checkpoint.write.write_weights` writes for these tensors."""
    order = list(ITEM_BYTES)
    header: dict[str, object] = {"__metadata__": METADATA}
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (-order.index(item[1].dtype), item[0])):
        start, end = end, end + ITEM_BYTES[info.dtype] * math.prod(info.shape)
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [start, end]}
    length = len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return ALIGNMENT + -(-length // ALIGNMENT) * ALIGNMENT + end
