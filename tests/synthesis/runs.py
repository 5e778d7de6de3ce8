"""Images learned from a small network, and their shape and bounds."""

import torch

from intraq_cli.runtime.context import RunContext
from intraq_cli.synthesis.synthesizer import synthesize_images
from tests.conftest import graph_of

SHAPE = (3, 8, 8)
BOUNDS = (torch.full((3,), -2.0), torch.full((3,), 2.0))


def synthesize(network, config, seed=0, report=lambda event: None):
    return synthesize_images(graph_of(network), SHAPE, 4, BOUNDS, config, RunContext(seed, report=report))
