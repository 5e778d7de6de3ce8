"""CUDA graphs: the kernels of a step, recorded once and launched together from then on.

Quantized networks run thousands of small kernels a step, and Python takes longer to launch them than a GPU to run them.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Made = TypeVar("Made")


class CudaGraph(Generic[Made]):
    """A differentiable function of a tensor; recorded anew where that has another shape.

    What it returns lies in memory that the next call writes over, gradients of parameters included: they must be used
    up before, not added to.

    Args:
        function: without side effects, and on the GPU alone; its parameters stay where they are in memory.
    """

    def __init__(self, function: Callable[[Tensor], Made]) -> None:
        self.function = function
        self.recorded_for: tuple[Any, ...] | None = None

    def __call__(self, x: Tensor) -> Made:
        """The function of ``x``.

        Raises:
            RuntimeError: it could not be recorded: it waits for the GPU, or memory does not hold another step.
        """
        kind = (x.shape, x.stride(), x.dtype, x.requires_grad)
        if kind != self.recorded_for:
            self.recorded_for = self.replay = None  # its memory is free before another takes some
            self.flat = _Flat(self.function)
            sample = x.detach().clone().requires_grad_(x.requires_grad)
            with torch.cuda.device(x.device):
                self.replay = torch.cuda.make_graphed_callables(self.flat, (sample,), allow_unused_input=True)
            self.recorded_for = kind
        assert self.replay is not None
        return self.flat.whole(self.replay(x))


class _Flat(nn.Module):
    """A function that puts out tensors alone, as recording needs it; a module, whose parameters receive gradients."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        leaves, self.form = pytree.tree_flatten(self.function(x))
        self.leaves = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def whole(self, out: Any) -> Any:
        """What the function puts out, of the tensors ``out`` among it."""
        tensors = iter(out)
        return pytree.tree_unflatten([next(tensors) if leaf is Tensor else leaf for leaf in self.leaves], self.form)
