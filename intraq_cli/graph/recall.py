"""Graphs captured before in this process: an equal network is not captured again.

Capture takes seconds, and seeds, bits and checkpoints are often compared on one network. Networks are equal if their
Python objects are, and their parameters and buffers have the same shapes: as no graph depends on the values of these
(capture rejects such networks), the graph of one, with the tensors of the other, is the graph of both.
"""

import hashlib
import pickle
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_cli.errors import interruption
from intraq_cli.graph.nodes import named_tensors, replace_tensors

MOST = 8
"""Number of graphs that are kept, the latest."""
CODE = (type, FunctionType, BuiltinFunctionType)


@dataclass(frozen=True)
class Description:
    """What a graph depends on."""

    digest: bytes
    code: tuple[Any, ...] = field(compare=False)
    """Classes and functions of the network; while these live, no other object has their identities."""


_graphs: dict[Description, fx.GraphModule] = {}


def describe(network: nn.Module, example: Tensor) -> Description | None:
    """Describe a network and the shape of its input ``(2, C, H, W)``; None if an object in it cannot be pickled."""
    digest = hashlib.sha256()
    describing = _Describing(digest, network)
    try:
        describing.dump((network, tuple(example.shape), example.stride(), str(example.dtype), str(example.device)))
    except Exception as error:  # objects raise anything as they are pickled
        if interruption(error):
            raise
        return None
    return Description(digest.digest(), tuple(describing.code))


def remember(description: Description, graph: fx.GraphModule, network: nn.Module) -> None:
    """Keep the graph of a network, without the values of its parameters and buffers."""
    names = named_tensors(network)
    _graphs.pop(description, None)
    while len(_graphs) >= MOST:
        del _graphs[next(iter(_graphs))]
    _graphs[description] = replace_tensors(graph, lambda key, tensor: tensor.to("meta") if key in names else tensor)


def recall(description: Description, network: nn.Module) -> fx.GraphModule | None:
    """Return the graph of an equal network with the tensors of ``network``; None if there is none."""
    if description not in _graphs:
        return None
    names = named_tensors(network)
    return replace_tensors(_graphs[description], lambda key, tensor: names.get(key, tensor))


class _Describing(pickle.Pickler):
    """Pickles a network into a digest: classes and functions by identity, its tensors by shape, others by value."""

    def __init__(self, digest: Any, network: nn.Module) -> None:
        super().__init__(_Sink(digest))
        self.own = {id(tensor) for tensor in named_tensors(network).values()}
        self.seen: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        self.code: list[Any] = []

    def persistent_id(self, obj: Any) -> Hashable:
        """Describe classes, functions and tensors; leave all other objects to pickle."""
        if isinstance(obj, CODE):
            self.code.append(obj)
            return "code", id(obj)
        return self._tensor(obj) if isinstance(obj, Tensor) else None

    def _tensor(self, tensor: Tensor) -> Hashable:
        if id(tensor) in self.seen:
            return "again", self.seen[id(tensor)]
        self.seen[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        kind = type(tensor).__qualname__, str(tensor.dtype), str(tensor.device), tuple(tensor.shape), tensor.stride()
        if id(tensor) in self.own or tensor.is_meta:
            return kind
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return *kind, values.numpy().tobytes()


class _Sink:
    """A file that adds what is written to a digest."""

    def __init__(self, digest: Any) -> None:
        self.write = digest.update
