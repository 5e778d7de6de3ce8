"""A folder of a float model."""

import pytest
import timm
import torch


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory):
    """A folder as timm's own save_for_hf writes it."""
    folder = tmp_path_factory.mktemp("timm") / "tiny"
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder, network
