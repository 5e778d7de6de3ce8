"""Checkpoints to publish."""

import pytest

from intraq_cli import quantize
from intraq_cli.checkpoint.read import read_checkpoint
from tests.conftest import FACTORY, SPEC, TINY_SET


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with ``w4``, a checkpoint of the bundled model, and ``own``, one of a network from a Python file."""
    folder = tmp_path_factory.mktemp("checkpoints")
    quantize("resnet20_digits", out=folder / "w4", set=TINY_SET, device="cpu")
    (folder / "nets.py").write_text(FACTORY)
    quantize(f"{folder / 'nets.py'}:net", recipe="instant", out=folder / "own", device="cpu", **SPEC)
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoints):
    """The checkpoint of the bundled model, read once, as reading it captures its network."""
    return read_checkpoint(checkpoints / "w4")
