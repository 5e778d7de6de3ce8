"""A working folder, a network's arguments, and the command line in a process of its own."""

import os

import pytest

from tests.conftest import INPUT
from tests.fakes import process


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net(factory):
    """Command-line arguments for a network of two layers."""
    return f"{factory}:net", *INPUT


def warm(*args, **env):
    """Run the command line in a separate process that has already imported torch."""
    return process.run("-m", "intraq_cli", *args, env={**os.environ, **env}, timeout=120)
