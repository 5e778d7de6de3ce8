"""A small network with a place for unusual code."""

from torch import nn
from torch.nn import functional as F

from tests.conftest import trained


class Body(nn.Module):
    """A convolution, a batch norm and a classifier, with a place for unusual code in between."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def middle(self, x):
        return x

    def forward(self, x):
        return self.fc(self.middle(F.relu(self.norm(self.conv(x)))).mean((2, 3)))


def with_middle(function):
    return trained(type("Odd", (Body,), {"middle": function})())
