"""Runs, images and sensitivities that come from other network code are refused or cause a warning."""

from pathlib import Path

import pytest

from intraq_cli import quantize, sensitivity, synthesize
from intraq_cli.errors import DataError, OutputError
from intraq_cli.events import Noted, Warned
from tests.conftest import FACTORY, SPEC, Stop, stopping

GIVEN = {**SPEC, "device": "cpu"}
FEW = ["synthesis.num_images=8", "synthesis.batch_size=8", "synthesis.steps=2", "tuning.steps=2", "tuning.batch_size=4"]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes the factory file, optionally with another activation instead of ReLU."""
    monkeypatch.chdir(tmp_path)

    def write(activation="torch.relu"):
        Path("nets.py").write_text(FACTORY.replace("torch.relu(self.bn", f"{activation}(self.bn"))
        return "nets.py:net"

    return write


def test_run_resumes_only_with_the_same_network_code(code):
    with pytest.raises(Stop):
        quantize(code(), set=FEW, out="out", report=stopping("tuning", 1), **GIVEN)
    with pytest.raises(OutputError, match=r"out\.unfinished is from a run that differs in network"):
        quantize(code("torch.tanh"), set=FEW, out="out", **GIVEN)
    told = []
    quantize(code(), set=FEW, out="out", report=told.append, **GIVEN)
    assert "resuming from out.unfinished" in [event.message for event in told if isinstance(event, Noted)]


def test_images_synthesized_with_other_network_code_cause_a_warning(code):
    made = synthesize(code(), set=FEW, out="images.safetensors", **GIVEN)

    def warnings(model):
        told = []
        used = [setting for setting in FEW if not setting.startswith("synthesis.")]  # it warns about others
        quantize(model, images=[made.path], set=used, dry_run=True, report=told.append, **GIVEN)
        return [event.message for event in told if isinstance(event, Warned)]

    assert warnings(code()) == []
    assert "images.safetensors was made with other code than that of nets.py:net" in warnings(code("torch.tanh"))


def test_sensitivities_measured_with_other_code_or_input_size_are_refused(code):
    found = sensitivity(code(), widths=(2, 4), n=4, set=FEW, out="s.json", **GIVEN)
    assert found.network is not None
    assert found.input_size == (3, 8, 8)
    given = {"avg_bits": 3, "w": (2, 4), "sensitivity": "s.json", "recipe": "instant", "dry_run": True}
    assert quantize(code(), **given, **GIVEN).frontier
    with pytest.raises(DataError, match=r"measured on images of size 3,8,8, not 3,16,16"):
        quantize(code(), **given, **{**GIVEN, "input_size": (3, 16, 16)})
    with pytest.raises(DataError, match=r"measured with other code of the network \(nets\.py:net\)"):
        quantize(code("torch.tanh"), **given, **GIVEN)
