import copy

import pytest
import torch

from intraq_cli.graph.trace import trace_network
from intraq_cli.quantization import calibration
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.recipe import Quantization


@pytest.mark.parametrize("placement", ["inputs", "activations"])
@pytest.mark.parametrize(("agreement", "as_with"), [(0.0, "never"), (1.1, "always")])
def test_a_ruined_network_is_rescued_and_another_one_left_alone(
    network, random, monkeypatch, placement, agreement, as_with
):
    """Agreement at which a network counts as ruined: none is below 0, every one below 1.1."""
    monkeypatch.setattr(calibration, "RUINED", agreement)
    images = torch.randn(32, 3, 8, 8, generator=random)
    plan = plan_quantization(trace_network(network, images[:2]), 3, 3, placement)
    states = []
    for correction in ("rescue", as_with):
        student = QuantizedNetwork(copy.deepcopy(network), plan)
        calibrate(student, network, images, Quantization(correction=correction))
        states.append(student.state_dict())
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
