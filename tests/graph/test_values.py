"""What is asked about the values in a graph."""

from torch import nn

from intraq_cli.graph.values import normalises_itself
from tests.conftest import graph_of


def test_networks_that_normalise_by_their_own_image_are_known():
    class Normed(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.norm(self.conv(x)).mean((2, 3)))

    for norm in (nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.Softmax(1)):
        assert normalises_itself(graph_of(Normed(norm).eval()))
    assert not normalises_itself(graph_of(Normed(nn.BatchNorm2d(4)).eval()))
