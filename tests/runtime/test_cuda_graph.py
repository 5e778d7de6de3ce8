"""CUDA graphs with a fake of torch's recording, which a CPU lacks; the fake reuses memory as torch does.

On a GPU, ``tests/gpu_first_look.py`` compares recorded steps with plain ones.
"""

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from intraq_cli.runtime.cuda_graph import CudaGraph


class Answer(NamedTuple):
    """Everything that steps return: tensors, lists of tensors, numbers and None."""

    out: Tensor
    squares: list[Tensor]
    eps: float
    nothing: Tensor | None


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        out = (self.weight * x).sin()
        return Answer(out, [out.detach().square(), x.square()], 1e-5, None)


@pytest.fixture
def recordings(monkeypatch):
    """The shapes that were recorded."""
    shapes = []

    def record(module, sample_args, allow_unused_input):
        (static,) = sample_args
        shapes.append(tuple(static.shape))
        parameters = tuple(module.parameters())
        outputs = tuple(module(static))
        gradients = {}

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, *parameters):
                static.data.copy_(x)
                with torch.enable_grad():
                    Replayed.now = tuple(module(static))
                for old, new in zip(outputs, Replayed.now, strict=True):
                    old.data.copy_(new)
                return tuple(out.detach() for out in outputs)

            @staticmethod
            def backward(ctx, *grads):
                some = [(out, grad) for out, grad in zip(Replayed.now, grads, strict=True) if out.requires_grad]
                wanted = [one for one in (static, *parameters) if one.requires_grad]
                outs, grads = zip(*some, strict=True)
                found = torch.autograd.grad(outs, wanted, grads, allow_unused=allow_unused_input)
                for key, new in zip(map(id, wanted), found, strict=True):
                    if new is not None:
                        gradients.setdefault(key, torch.empty_like(new)).copy_(new)
                held = [gradients.get(id(one)) for one in (static, *parameters)]
                return tuple(None if one is None else one.detach() for one in held)

        return lambda x: Replayed.apply(x, *parameters)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return shapes


def gradients(answer, x, layer):
    layer.zero_grad()
    (answer.out.sum() + (torch.arange(3) * answer.squares[1]).sum()).backward()
    return x.grad.clone(), layer.weight.grad.clone()


def test_replay_gives_the_outputs_and_gradients_of_the_function(recordings):
    layer = Layer()
    replayed = CudaGraph(layer)
    for seed in range(3):
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        here, there = x.clone().requires_grad_(), x.clone().requires_grad_()
        wanted, got = layer(here), replayed(there)
        assert (got.eps, got.nothing) == (1e-5, None)
        torch.testing.assert_close([got.out, *got.squares], [wanted.out, *wanted.squares])
        torch.testing.assert_close(gradients(got, there, layer), gradients(wanted, here, layer))
        with torch.no_grad():
            layer.weight += 0.1  # as an optimizer does, in place
    assert recordings == [(2, 3)]


def test_new_shape_or_gradient_requirement_is_recorded_separately(recordings):
    layer = Layer()
    replayed = CudaGraph(layer)
    for x in (torch.ones(2, 3), torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 3, requires_grad=True)):
        torch.testing.assert_close(replayed(x).out, layer(x).out)
    assert recordings == [(2, 3), (1, 3), (1, 3)]
