"""Where the work is done."""

import torch
from torch import nn

from intraq_cli.runtime.device import place


def test_images_weights_take_channels_last_whatever_else_a_network_holds():
    network = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(4, 2)])
    network[2].tied = network[0].weight
    before = {key: value.clone() for key, value in network.state_dict().items()}
    placed = place(network, "cpu")
    assert placed is network
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[2].tied is placed[0].weight
    assert all(torch.equal(value, before[key]) for key, value in placed.state_dict().items())
