"""What is stored about a float model from the Hub."""

import json
import shutil

import pytest
import timm
from safetensors.torch import save_file

from intraq_cli.models import hub_source
from tests.models.teachers import load_teacher


def test_hf_hub_id_is_stored_without_the_revision(tmp_path, monkeypatch):
    """The commit is stored separately, and a branch may have a name that is invalid in a repository id."""
    made = timm.create_model("test_resnet", num_classes=3)
    cfg = {"num_classes": 3, "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(hub_source, "hub_file", lambda repository, name: str(tmp_path / name))
    teacher = load_teacher("hf-hub:org/name@refs/pr/3")
    assert teacher.pretrained_cfg["hf_hub_id"] == "org/name"
    assert (teacher.source, teacher.name) == ("hf-hub:org/name@refs/pr/3", "name")


@pytest.mark.parametrize("kind", ["timm", "ours"])
def test_commit_of_a_hub_model_is_stored(tmp_path, monkeypatch, timm_folder, small_digits, kind):
    from huggingface_hub import constants

    commit = "a" * 40
    cached = tmp_path / "models--org--name"
    shutil.copytree(timm_folder[0] if kind == "timm" else small_digits, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    teacher = load_teacher("hf-hub:org/name")
    assert (teacher.name, teacher.source, teacher.revision) == ("name", "hf-hub:org/name", commit)
