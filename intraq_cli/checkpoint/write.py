"""Writes ``model.safetensors``: packed weights, and every other tensor that the network reads."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, fx

from intraq_cli.checkpoint.keys import float_names, grid_keys, site_prefix, weight_keys
from intraq_cli.checkpoint.layout import METADATA
from intraq_cli.errors import ModelError
from intraq_cli.graph.nodes import tensors as read_tensors
from intraq_cli.models.meta_build import DTYPES
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.packing import pack


def checkpoint_tensors(
    network: QuantizedNetwork, stored: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of ``model.safetensors``: everything that the network's graph reads, weights as packed codes.

    It includes neither float copies of quantized weights nor what these were computed from (a pruning mask, the
    parameters of a weight normalisation).

    Args:
        network: the frozen network.
        stored: what :meth:`QuantizedNetwork.freeze` returned.
    """
    tensors: dict[str, Tensor] = {}
    for name, (codes, scale, zero_point) in stored.items():
        key, bits = network.weight_keys[name], network.plan.weights[name]
        of_weight = weight_keys(key)
        tensors[of_weight.packed] = pack(codes.flatten(1), bits)
        tensors[of_weight.scale] = scale[:, None]
        # packed along the channels, as in compressed-tensors
        tensors[of_weight.zero_point] = pack(zero_point.to(torch.uint8)[None], bits).T
        tensors[of_weight.shape] = torch.tensor(codes.shape)
    for site, quantizer in network.activation_quantizers.items():
        of_grid = grid_keys(site_prefix(network.plan, site))
        tensors[of_grid.scale] = quantizer.scale()
        tensors[of_grid.zero_point] = quantizer.zero_point.to(torch.uint8)
    floats = network.float_tensors
    tensors |= {name: floats[key] for key, name in float_names(floats, tensors).items()}
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


def check_storable(graph: fx.GraphModule) -> None:
    """Refuse, before any work, a network with tensors that a checkpoint cannot store.

    Raises:
        ModelError: a tensor that the graph reads has a type or layout that safetensors files do not support.
    """
    for key, tensor in read_tensors(graph).items():
        if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
            kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise ModelError(
                f"{key} is a tensor that no checkpoint can store ({kind})", "make it a dense float32 tensor"
            )


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> int:
    """Write ``model.safetensors``, and return its size in bytes."""
    save_file(tensors, folder / "model.safetensors", METADATA)
    return (folder / "model.safetensors").stat().st_size
