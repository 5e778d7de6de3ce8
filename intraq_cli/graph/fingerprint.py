"""What a network computes beside its tensors: a digest of its operations and of the numbers in its code."""

import hashlib

import torch
from torch import fx

ELSEWHERE = (torch.device, torch.memory_format, torch.layout)
"""Arguments that say where values lie, not what they are."""


def fingerprint(graph: fx.GraphModule) -> str:
    """SHA-256, in hexadecimal, of a captured graph: equal for equal code, whatever its tensors hold.

    Another version of torch may capture the same code as other operations.
    """
    numbers = {node: f"%{k}" for k, node in enumerate(graph.graph.nodes)}
    digest = hashlib.sha256()
    for node in graph.graph.nodes:
        named = node.target if node.op in ("get_attr", "call_module") else ""
        function = getattr(node.target, "__qualname__", node.target) if node.op == "call_function" else ""
        kwargs = {key: value for key, value in node.kwargs.items() if not isinstance(value, ELSEWHERE)}
        args = fx.node.map_arg((node.args, kwargs), lambda read: numbers[read])
        digest.update(f"{node.op} {named} {function} {args}\n".encode())
    return digest.hexdigest()
