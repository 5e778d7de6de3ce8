"""A checkpoint of a small network for digits."""

import pytest

from intraq_cli import quantize
from tests.conftest import TINY_SET


@pytest.fixture(scope="session")
def digits(tmp_path_factory, small_digits):
    folder = tmp_path_factory.mktemp("made") / "digits"
    quantize(small_digits, w=3, a=4, out=folder, set=TINY_SET, device="cpu")
    return folder
