"""Networks that are quantized, exported in memory and run by onnxruntime."""

import functools
import platform

import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.deploy.lower import lower
from intraq_cli.deploy.onnx_file import onnx_model
from intraq_cli.deploy.session import OnnxNetwork, open_session
from tests.conftest import frozen_student, trained

SHAPE = (3, 16, 16)
KERNELS_OF_X86 = platform.machine() in ("x86_64", "AMD64")
"""Kernels for other processors may round differently between two codes, for instance in sums."""


class Everything(nn.Module):
    """Everything that classifiers do between their convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, 2, groups=8, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.left, self.right, self.join = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(16, 8, 1, bias=False)
        self.tokens, self.fc = nn.Linear(8, 12), nn.Linear(12, 5)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (8, 8, 8, 12))

    def forward(self, x):
        x = F.silu(self.norms[0](self.stem(F.pad(x, (0, 1, 0, 1)))))
        x = x + self.twice(F.leaky_relu(self.twice(x), 0.1))
        x = F.relu6(self.norms[1](self.depthwise(F.pad(x, (0, 1, 0, 1)))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        a, b = x.chunk(2, 1)
        x = torch.cat([self.left(a), F.hardswish(self.right(b)), F.max_pool2d(x, 3, 1, 1)], 1)
        x = F.hardtanh(self.norms[2](self.join(x)), -0.5, 2.0)
        x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 12, 4, 4)
        return self.fc(F.adaptive_avg_pool2d(self.norms[3](x), 1).flatten(1))


frozen = functools.partial(frozen_student, shape=SHAPE)


@functools.cache
def frozen_everything(bits=4):
    """Built only once, as no test changes its graph."""
    return frozen(trained(Everything(), SHAPE), bits, bits)


def model_of(student, storage="int8", shape=SHAPE):
    return onnx_model(lower(student), shape, storage, {"version": "0"})


def run(model, x):
    return OnnxNetwork(open_session(model.SerializeToString(), 1))(x)


def share_of_equal(wanted, got):
    """Share of the images whose logits are identical."""
    return float((wanted == got).all(1).float().mean())
