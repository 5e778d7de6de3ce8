"""Who reads what a call makes, in one run of a network."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class Call:
    """A call of one of torch's functions; others are named by their numbers, from 0."""

    func: Callable[..., Any]
    args: tuple
    kwargs: Mapping[str, Any]
    makers: dict[int, int]
    """Which call made a tensor that it takes, by identity; the latest, as one in place makes the same tensor again."""
    readers: list[int] = field(default_factory=list)
    """Which calls take what it makes, once for each time that they do."""


class Dataflow(TorchFunctionMode):
    """Within the block, notes the calls; questions about shapes, types and devices read no values, and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.uses: Counter[int] = Counter()
        """How often each tensor was taken, by identity."""
        self._made: dict[int, int] = {}
        self._alive: list[Tensor] = []  # else another tensor might get the identity of one that is gone

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        taken = [id(tensor) for tensor in _tensors((args, kwargs))]
        out = func(*args, **kwargs)
        made = _tensors(out)
        if not made and out is not None:  # what returns nothing has written something
            return out
        call = Call(func, args, kwargs, {key: self._made[key] for key in taken if key in self._made})
        for key in taken:
            if key in call.makers:
                self.calls[call.makers[key]].readers.append(len(self.calls))
        self.uses.update(taken)
        self._made.update((id(tensor), len(self.calls)) for tensor in made)
        self._alive += made
        self.calls.append(call)
        return out

    def maker(self, call: Call, tensor: Tensor) -> Call | None:
        """What made ``tensor``, which ``call`` takes; None: it is the network's own, or was made out of sight."""
        number = call.makers.get(id(tensor))
        return None if number is None else self.calls[number]

    def only_reader(self, call: Call) -> Call | None:
        """What takes that which ``call`` makes, if nothing else does."""
        return self.calls[call.readers[0]] if len(call.readers) == 1 else None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@torch.no_grad()
def dataflow(network: nn.Module, example: Tensor) -> tuple[Dataflow, Tensor]:
    """Run ``network`` on ``example`` ``(B, C, H, W)``: its calls, and what it puts out."""
    with Dataflow() as flow:
        out = network(example)
    return flow, out
