"""What a network computes beside its tensors: a digest of its operations and of the numbers in its code."""

import hashlib
from typing import Any

import torch
from torch import fx

TORCH = torch.__version__.partition("+")[0]
"""The version, without the kind of its build; each captures code in its own way."""
ELSEWHERE = (torch.device, torch.memory_format, torch.layout)
"""Arguments that say where values lie, not what they are."""


def fingerprint(graph: fx.GraphModule) -> dict[str, str]:
    """``sha256`` of a captured graph, in hexadecimal, the same whatever its tensors hold, and the ``torch`` version."""
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
    """Whether a graph does other things than one of which a file states the :func:`fingerprint`.

    Another version of torch may capture the same code in another way: then nothing is compared, nor where a file states
    nothing.
    """
    return isinstance(stated, dict) and stated.get("torch") == TORCH and stated != fingerprint(graph)
