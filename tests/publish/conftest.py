"""Checkpoints to publish, and the tokens and files of pushes."""

import json
import shutil

import pytest
import timm
import torch

from intraq_cli import quantize
from intraq_cli.checkpoint.read import read_checkpoint
from tests.conftest import FACTORY, SPEC, TINY_SET

TOKEN, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
FILES = {"README.md", "config.json", "metrics.jsonl", "model.safetensors", "report.html", "run.json", "samples.png"}
OWN_FILES = FILES - {"samples.png", "metrics.jsonl"}
"""The files of a checkpoint that was made without images."""


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


@pytest.fixture(scope="module")
def made(checkpoints, tmp_path_factory):
    """Copies of the checkpoints, damaged copies, and a float timm model."""
    folder = tmp_path_factory.mktemp("made") / "all"
    shutil.copytree(checkpoints, folder)
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=7), folder / "float", safe_serialization=True)
    for name in ("weights.pth", ".env", "notes.txt"):
        (folder / "w4" / name).write_text("hf_" + "s" * 34)
    shutil.copytree(folder / "w4", folder / "linked")
    (folder / "linked/samples.png").unlink()
    (folder / "linked/samples.png").symlink_to(folder / "w4/samples.png")
    shutil.copytree(folder / "w4", folder / "damaged")
    content = (folder / "damaged/model.safetensors").read_bytes()
    (folder / "damaged/model.safetensors").write_bytes(content[:-100])
    shutil.copytree(folder / "own", folder / "damaged-own")
    (folder / "damaged-own/model.safetensors").write_bytes(content[:-100])
    shutil.copytree(folder / "w4", folder / "talkative")
    run = json.loads((folder / "talkative/run.json").read_text())
    (folder / "talkative/run.json").write_text(json.dumps({**run, "command": f"intraq --token {TOKEN}"}))
    return folder
