"""A digest of what a network computes, apart from its tensors: of its operations and of the constants in its code."""

import hashlib
from typing import Any

import torch
from torch import fx

TORCH = torch.__version__.partition("+")[0]
"""The version without its build tag; different versions may capture the same code differently."""
ELSEWHERE = (torch.device, torch.memory_format, torch.layout)
"""Types of arguments that say where and how values are stored, not what they are."""


def fingerprint(graph: fx.GraphModule) -> dict[str, str]:
    """Return the hexadecimal ``sha256`` of a captured graph, independent of its tensors, and the ``torch`` version."""
    numbers = {node: f"%{k}" for k, node in enumerate(graph.graph.nodes)}
    digest = hashlib.sha256()
    for node in graph.graph.nodes:
        named = node.target if node.op in ("get_attr", "call_module") else ""
        function = getattr(node.target, "__qualname__", node.target) if node.op == "call_function" else ""
        args = fx.node.map_aggregate((node.args, node.kwargs), lambda one: _said(one, numbers))
        digest.update(f"{node.op} {named} {function} {args}\n".encode())
    return {"torch": TORCH, "sha256": digest.hexdigest()}


def _said(one: Any, numbers: dict[fx.Node, str]) -> Any:
    if isinstance(one, fx.Node):
        return numbers[one]
    return None if isinstance(one, ELSEWHERE) else one


def is_other_code(stated: Any, graph: fx.GraphModule) -> bool:
    """Whether a graph's :func:`fingerprint` differs from the one stated in a file.

    False if the file states none, or one of another torch version, which may capture the same code differently.
    """
    return isinstance(stated, dict) and stated.get("torch") == TORCH and stated != fingerprint(graph)
