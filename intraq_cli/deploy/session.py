"""Run ONNX files in onnxruntime: their logits, their time, and which of their layers run on integers."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intraq_cli.deploy.libraries import library
from intraq_cli.deploy.onnx_file import CODES_SUFFIX, IN_TORCH
from intraq_cli.errors import ExportError, first_line, interruption

INTEGER_WEIGHTS = {
    **dict.fromkeys(("QLinearConv", "QGemm", "QLinearMatMul"), 3),
    **dict.fromkeys(("MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"), 1),
}
"""Integer operators, and the index of the input that is the weight."""
RUNS = 20
SECONDS = 2.0
"""Timing stops after ``RUNS`` runs or ``SECONDS`` seconds, whichever comes first."""


def open_session(file: Path | bytes, threads: int | None = None, optimized: Path | None = None) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        file: path of the file, or the serialized model.
        threads: number of threads for each operation; None: as many as cores.
        optimized: where to write the optimized graph, which is what actually runs.

    Raises:
        ExportError: the runtime rejects the file.
    """
    ort = library("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised; it need not print them too
    options.intra_op_num_threads = threads or 0
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return ort.InferenceSession(file if isinstance(file, bytes) else str(file), options, ["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base class
        where = "the model" if isinstance(file, bytes) else file
        raise ExportError(f"onnxruntime cannot load {where}: {first_line(error)}", "export it again") from error


class OnnxNetwork(nn.Module):
    """An ONNX file as a module from images ``(B, C, H, W)`` to logits ``(B, K)``, run on the CPU."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        self.input = session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Raises:
            ExportError: the runtime has no kernel for an operation (it finds out only as it runs), or refuses ``x``.
        """
        try:
            (logits,) = self.session.run(None, {self.input: np.ascontiguousarray(x.detach().cpu().numpy())})
        except Exception as error:  # the runtime's errors have no common base class
            if interruption(error):
                raise
            raise ExportError(f"onnxruntime cannot run the network: {first_line(error)}", IN_TORCH) from error
        return torch.from_numpy(logits).to(x.device)


MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
"""Operators whose second input is a weight, or another activation."""


def integer_layers(model: Any) -> tuple[list[str], list[dict[str, str]]]:
    """Return which layers of an ``onnx.ModelProto`` the runtime runs on integers; name and reason of the others.

    The answer is read from the graph that the session optimized, which is what actually runs.
    """
    onnx = library("onnx")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "optimized.onnx")
        open_session(model.SerializeToString(), 1, file)
        nodes = onnx.load(file).graph.node
    fused = {node.input[k] for node in nodes if (k := INTEGER_WEIGHTS.get(node.op_type)) is not None}
    integer, left = [], []
    held = {tensor.name.removesuffix(CODES_SUFFIX) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type not in MULTIPLYING or len(node.input) < 2:
            continue
        maker = makers.get(node.input[1])
        weight = node.input[1] if maker is None else maker.input[0]
        if weight not in held:
            left.append({"name": node.name, "reason": "a product of activations"})
        elif weight in fused:
            integer.append(weight.removesuffix(".weight"))
        else:
            left.append({"name": weight.removesuffix(".weight"), "reason": _reason(model, makers, node, maker)})
    return list(dict.fromkeys(integer)), list({layer["name"]: layer for layer in left}.values())


def _reason(model: Any, makers: dict[str, Any], node: Any, weight: Any) -> str:
    types = library("onnx").TensorProto
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if weight is None or weight.op_type != "DequantizeLinear":
        return "its weight is not quantized"
    if kinds.get(weight.input[0]) == types.UINT8:
        return "each channel of its weight has its own zero-point"
    source = makers.get(node.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        return "its input is not quantized"
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    if [reader.op_type for reader in readers] != ["QuantizeLinear"]:
        return "its output is not quantized"
    return "the runtime has no integer kernel for it"


def milliseconds(networks: list[OnnxNetwork], images: Tensor) -> list[float]:
    """Measure the median time of each network for one batch; they take turns."""
    times: list[list[float]] = [[] for _ in networks]
    began = time.perf_counter()
    for k in range(RUNS + 1):
        for network, own in zip(networks, times, strict=True):
            started = time.perf_counter()
            network(images)
            own.append(1000 * (time.perf_counter() - started))
        if k and time.perf_counter() - began > SECONDS:
            break
    return [statistics.median(own[1:]) for own in times]
