"""CUDA graphs: the kernels of a step are recorded once, and from then on launched together.

Quantized networks run thousands of small kernels per step. Python takes longer to launch them than a GPU to run them.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Made = TypeVar("Made")


class CudaGraph(Generic[Made]):
    """A differentiable function of a tensor as a CUDA graph; it is recorded again if the tensor's shape changes.

    The next call overwrites the memory of the results, and of the parameters' gradients. Use them before that call; do
    not accumulate into them.

    Args:
        function: without side effects, and on the GPU only; its parameters must not move in memory.
    """

    def __init__(self, function: Callable[[Tensor], Made]) -> None:
        self.function = function
        self.recorded_for: tuple[Any, ...] | None = None

    def __call__(self, x: Tensor) -> Made:
        """Return the function's result on ``x``.

        Raises:
            RuntimeError: it could not be recorded: it synchronises with the GPU, or there is not enough memory.
        """
        kind = (x.shape, x.stride(), x.dtype, x.requires_grad)
        if kind != self.recorded_for:
            self.recorded_for = self.replay = None  # free its memory before the new graph allocates
            self.flat = _Flat(self.function)
            sample = x.detach().clone().requires_grad_(x.requires_grad)
            with torch.cuda.device(x.device):
                self.replay = torch.cuda.make_graphed_callables(self.flat, (sample,), allow_unused_input=True)
            self.recorded_for = kind
        assert self.replay is not None
        return self.flat.whole(self.replay(x))


class _Flat(nn.Module):
    """A function that returns only tensors, as recording requires; a module, so that its parameters get gradients."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        leaves, self.form = pytree.tree_flatten(self.function(x))
        self.leaves = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def whole(self, out: Any) -> Any:
        """Rebuild the function's original output from its tensors ``out``."""
        tensors = iter(out)
        return pytree.tree_unflatten([next(tensors) if leaf is Tensor else leaf for leaf in self.leaves], self.form)
