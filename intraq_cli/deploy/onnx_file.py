"""Convert a lowered graph to an ONNX model."""

import json
import re
from typing import Any, Literal

import numpy as np
import torch
from torch import fx

from intraq_cli.deploy.libraries import library
from intraq_cli.deploy.lower import ONNX
from intraq_cli.errors import ExportError, first_line, interruption
from intraq_cli.graph.capture import quiet
from intraq_cli.graph.nodes import NETWORK, calls, finish, insert_tensor
from intraq_cli.graph.values import is_float

aten = torch.ops.aten

Storage = Literal["int8", "int4"]
OPSET = {"int8": 20, "int4": 21}
"""Version of the ONNX operators: 21 adds 4-bit types; runtimes from 2024 do not support later versions."""
PRODUCER = "intraq"
NEUTRAL: dict[Any, int] = {aten.add.Tensor: 0, aten.sub.Tensor: 0, aten.mul.Tensor: 1, aten.div.Tensor: 1}
"""For each operation, the second operand that leaves the first unchanged."""
NEARLY = 1e-4
"""Distance from a neutral number within which a number is written as a tensor: ``torch.onnx`` treats numbers as neutral
within 1e-8 and 1e-5."""
CODES_SUFFIX = "_codes"
"""Suffix of the name of a weight whose codes take four bits."""
IN_TORCH = "run the checkpoint in torch, with load()"


def onnx_model(graph: fx.GraphModule, input_size: tuple[int, int, int], storage: Storage, about: dict[str, Any]) -> Any:
    """Return a graph as ``onnx.ModelProto``, from normalised images ``(B, C, H, W)`` to logits ``(B, K)``, for any B.

    Args:
        graph: graph of operators that ``torch.onnx`` supports, see :func:`intraq_cli.deploy.lower.lower`.
        input_size: (C, H, W).
        storage: with ``int4``, weights that fit take four bits in the file; runtimes widen them when they load it.
        about: metadata, as JSON values.

    Raises:
        ExportError: ``torch.onnx`` has no operators for the graph, or a package is missing.
    """
    onnx = library("onnx")
    try:
        program = _export(_with_nearly_neutral_numbers(graph).eval(), input_size)
    except Exception as error:  # errors of torch.onnx have no common base class
        if interruption(error):
            raise
        raise _refusal(error) from error
    model = program.model_proto
    _tidy(model)
    if storage == "int4":
        _store_four_bits(model)
    model.producer_name, model.producer_version = PRODUCER, str(about.get("version", ""))
    onnx.helper.set_model_props(model, {PRODUCER: json.dumps(about)})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # errors of its three checks have no common base class
        raise _refusal(error) from error
    return model


def _refusal(error: BaseException) -> ExportError:
    """Explain an error of ``torch.onnx`` by the root cause of its chain of exceptions."""
    root: BaseException | None = error
    while root is not None:
        error, root = root, root.__cause__
    lacking = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if lacking:
        return ExportError(f"ONNX has no operator for {lacking[1]}, which this network calls", IN_TORCH)
    return ExportError(f"torch.onnx cannot export this network: {first_line(error)}", IN_TORCH)


def _with_nearly_neutral_numbers(graph: fx.GraphModule) -> fx.GraphModule:
    """Replace nearly neutral numbers by one-dimensional tensors, which ``torch.onnx`` keeps.

    ``torch.onnx`` removes ``x + 1e-8`` like ``x + 0``, so a division that this made safe could divide by zero.
    """
    for k, node in enumerate(filter(is_float, calls(graph, *NEUTRAL))):
        x, number, neutral = node.args[0], node.args[1], NEUTRAL[node.target]
        near = isinstance(number, int | float) and 0 < abs(number - neutral) < NEARLY
        if near and isinstance(x, fx.Node) and len(x.meta["shape"]):
            held = torch.tensor([number], dtype=x.meta["dtype"])
            node.update_arg(1, insert_tensor(graph, node, f"number_{k}", held, ONNX))
    return finish(graph)


def _export(graph: fx.GraphModule, input_size: tuple[int, int, int]) -> Any:
    with quiet("torch.onnx"):
        return torch.onnx.export(
            graph,
            (torch.zeros(2, *input_size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=OPSET["int8"],
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )


def _tidy(model: Any) -> None:
    """Restore the network's names of tensors, and remove Python stack traces from all nodes."""
    del model.graph.value_info[:], model.metadata_props[:]
    named: dict[str, str] = {}
    values = {value.name for value in (*model.graph.input, *model.graph.output)}  # a buffer may have the same name
    values.update(name for node in model.graph.node for name in node.output)
    for tensor in model.graph.initializer:
        plain = tensor.name.removeprefix(ONNX).removeprefix(NETWORK)
        named[tensor.name] = tensor.name if plain in {*values, *named.values()} else plain
        tensor.name, tensor.doc_string = named[tensor.name], ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for k, name in enumerate(node.input):
            node.input[k] = named.get(name, name)


def _store_four_bits(model: Any) -> None:
    """Store weights whose codes span at most 16 values in each channel in four bits, and restore them in the graph.

    The smallest code of each channel is subtracted from its codes; ``Cast``, ``Add`` and ``Cast`` restore the int8
    codes. These operations do not depend on the input, so that a runtime computes them once.
    """
    onnx = library("onnx")
    types, helper, arrays = onnx.TensorProto, onnx.helper, onnx.numpy_helper
    model.opset_import[0].version = OPSET["int4"]
    weights = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    added = []
    for tensor in list(model.graph.initializer):
        if tensor.name not in weights or tensor.data_type != types.INT8 or len(tensor.dims) < 2:
            continue
        values = arrays.to_array(tensor).astype(np.int32)
        rows = values.reshape(len(values), -1)
        least = rows.min(1)
        if (rows.max(1) - least).max() > 15:
            continue
        name, per_row = tensor.name, (-1,) + (1,) * (values.ndim - 1)
        codes = (values - least.reshape(per_row)).astype(helper.tensor_dtype_to_np_dtype(types.UINT4))
        packed = arrays.from_array(codes, f"{name}{CODES_SUFFIX}")
        offset = arrays.from_array(least.astype(np.int32).reshape(per_row), f"{name}_least")
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend([packed, offset])
        added += [
            helper.make_node("Cast", [packed.name], [f"{name}_wide"], to=types.INT32),
            helper.make_node("Add", [f"{name}_wide", offset.name], [f"{name}_values"]),
            helper.make_node("Cast", [f"{name}_values"], [name], to=types.INT8),
        ]
    nodes = added + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
