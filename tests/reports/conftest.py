"""A made-up checkpoint folder."""

import pytest

from tests.reports.runs import folder_of


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "net-w4a4")
