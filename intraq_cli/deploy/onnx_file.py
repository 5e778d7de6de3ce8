"""From a quantized network to an ONNX model."""

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
"""Of the ONNX operators: 21 has types of 4 bits, and runtimes of 2024 do not know later ones."""
PRODUCER = "intraq"
NEUTRAL: dict[Any, int] = {aten.add.Tensor: 0, aten.sub.Tensor: 0, aten.mul.Tensor: 1, aten.div.Tensor: 1}
"""Numbers with which a call returns what it takes."""
NEARLY = 1e-4
"""Distance from them within which ``torch.onnx`` may take a number for one of them: it does up to 1e-8 and 1e-5."""
CODES_SUFFIX = "_codes"
"""What is behind the name of a weight whose codes take four bits."""


def onnx_model(graph: fx.GraphModule, input_size: tuple[int, int, int], storage: Storage, about: dict[str, Any]) -> Any:
    """The ``onnx.ModelProto`` of a graph: images ``(B, C, H, W)``, normalised, to logits ``(B, K)``; any B.

    Args:
        graph: in operators that ``torch.onnx`` knows, see :func:`intraq_cli.deploy.lower.lower`.
        input_size: (C, H, W).
        storage: ``int4``: weights that fit take four bits in the file; runtimes widen them as they load it.
        about: metadata, as JSON values.

    Raises:
        ExportError: ``torch.onnx`` has no operators for it, or a package is missing.
    """
    onnx = library("onnx")
    try:
        program = _export(_with_nearly_neutral_numbers(graph).eval(), input_size)
    except Exception as error:  # those of torch.onnx have no common class
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
    except Exception as error:  # those of its three checks have no common class
        raise _refusal(error) from error
    return model


def _refusal(error: BaseException) -> ExportError:
    """What an error of ``torch.onnx`` means, which lies at the root of several that it raises."""
    root: BaseException | None = error
    while root is not None:
        error, root = root, root.__cause__
    lacking = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if lacking:
        return ExportError(f"ONNX has no operator for {lacking[1]}, which this network calls", "use load() in torch")
    return ExportError(f"torch.onnx cannot write this network: {first_line(error)}", "use load() in torch")


def _with_nearly_neutral_numbers(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with these numbers as tensors of one dimension, which ``torch.onnx`` keeps.

    It leaves out ``x + 1e-8`` as ``x + 0``: what was safe from dividing by zero would not be any more.
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
    """Names as the network has them; no traces of Python in every node."""
    del model.graph.value_info[:], model.metadata_props[:]
    named: dict[str, str] = {}
    values = {value.name for value in (*model.graph.input, *model.graph.output)}  # a buffer may be called as one
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
    """Let weights that have at most 16 values in a channel take four bits, behind operations that give them back.

    Codes are counted from each channel's least; ``Cast``, ``Add`` and ``Cast`` make the same int8 numbers of them,
    which depends on no image: a runtime does it once.
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
