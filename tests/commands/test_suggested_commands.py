"""The next commands that commands suggest, run as printed."""

import json
import shlex
import shutil

import pytest

from tests.conftest import INPUT, TINY

pytestmark = pytest.mark.usefixtures("in_a_folder")


def test_suggested_next_commands_run_as_printed(intraq, tmp_path, factory, labelled):
    (tmp_path / "my nets").mkdir()
    model = f"{shutil.copy(factory, 'my nets')}:net"
    made = intraq("synthesize", model, *INPUT, *TINY, "--out", "my images")
    made = intraq(*_hinted(made.err), *TINY, "--out", "my checkpoint")
    assert made.code == 0
    found = intraq(*(word.replace("FOLDER", labelled) for word in _hinted(made.err)), "--json")
    assert (found.code, json.loads(found.out)["n"]) == (0, 3)


@pytest.mark.slow
def test_suggested_evaluation_of_an_exported_file_names_a_float_model_in_a_folder(intraq, tmp_path, small_digits):
    """The file's metadata names the folder too, but is not followed, as it may come from somebody else."""
    intraq("quantize", small_digits, "--recipe", "instant", "--out", tmp_path / "made")
    made = intraq("export", tmp_path / "made", "--out", tmp_path / "a.onnx")
    assert intraq(*(word.replace("FOLDER", "digits") for word in _hinted(made.err)), "--limit", "5").code == 0


def test_compare_suggests_a_report_of_folders_only(intraq, tmp_path, small_digits, monkeypatch):
    made = tmp_path / "made"
    intraq("quantize", small_digits, "--recipe", "instant", "--out", made)
    assert intraq(*_hinted(intraq("compare", made, made).err)).code == 0
    monkeypatch.setattr("intraq_cli.jobs.targets._folder", lambda target, revision: made)
    ran = intraq("compare", made, "org/name")
    assert (ran.code, "next:" in ran.err) == (0, False)


def _hinted(printed):
    (line,) = (line for line in printed.splitlines() if line.startswith("next: "))
    return shlex.split(line)[2:]


def test_preprocessing_options_reach_the_checkpoint_and_the_next_command(intraq, tmp_path, factory, labelled):
    """From the command line into the checkpoint, and through the hint into the next command."""
    stated = (*INPUT, "--crop-pct", "0.75", "--interpolation", "bilinear")
    made = intraq("synthesize", f"{factory}:net", *stated, *TINY, "--out", "i.safetensors")
    assert made.code == 0
    hinted = _hinted(made.err)
    assert set(stated) <= set(hinted)
    assert intraq(*hinted, "--recipe", "instant", "--out", "made").code == 0
    cfg = json.loads((tmp_path / "made/config.json").read_text())["pretrained_cfg"]
    assert (cfg["crop_pct"], cfg["interpolation"], cfg["mean"]) == (0.75, "bilinear", [0.5] * 3)
    model = ("--model", f"{factory}:net")
    assert intraq("evaluate", "made", "--data", labelled, *model, "--json").code == 0
    refused = intraq("evaluate", "made", "--data", labelled, *model, "--crop-pct", "0.9")
    assert (refused.code, "--crop-pct: made has its own input size and preprocessing" in refused.err) == (2, True)
    measured = intraq("evaluate", f"{factory}:net", "--data", labelled, *stated, "--json")
    assert json.loads(measured.out)["n"] == 3
    found = intraq("inspect", f"{factory}:net", *stated, "--json")
    assert json.loads(found.out)["input_size"] == [3, 8, 8]
