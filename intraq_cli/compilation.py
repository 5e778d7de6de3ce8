"""``torch.compile``, where a recipe asks for it, and plain torch again where it fails."""

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from intraq_cli.errors import first_line, interruption
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.memory import is_out_of_memory

Made = TypeVar("Made")
Result = TypeVar("Result")


class Compiled(Generic[Made]):
    """A function in two forms: as it is and, if ``wanted``, compiled.

    What lies between convolutions is then computed in one pass rather than several, forward and backward; on CUDA its
    kernels are launched at once (CUDA graphs). Compilation takes minutes, at the first call.

    Args:
        function: of a tensor, of a few different shapes.
        wanted: whether to compile it.
        device: where it works.
        report: told of the wait, and of a failure.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Made],
        wanted: bool,
        device: torch.device | str = "cpu",
        report: Report = silent,
    ) -> None:
        self.function, self.report = function, report
        self.compiled: Callable[[Tensor], Made] | None = None
        if wanted:
            mode = "reduce-overhead" if torch.device(device).type == "cuda" else None
            self.compiled = torch.compile(function, dynamic=False, mode=mode)
            # the compiler itself looks at gradients of tensors that keep none
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            report(Noted("torch.compile: the first step takes minutes"))

    def run(self, work: Callable[[Callable[[Tensor], Made]], Result]) -> Result:
        """``work(function)``, gradients and all; with the plain one, for good, where it fails with the compiled one.

        It must start over each time. An error that is not the compiler's comes up again, and so is raised.
        """
        if self.compiled is not None:
            try:
                return work(self.compiled)
            except Exception as error:  # the compiler's own errors have no common class
                if interruption(error) or is_out_of_memory(error):  # smaller portions help
                    raise
                self.compiled = None
                self.report(Warned(f"torch.compile failed, going on without it: {first_line(error)[:200]}"))
        return work(self.function)
