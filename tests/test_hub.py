"""The real huggingface_hub client and timm against a local server."""

import json
import os
import subprocess
import sys

import pytest
import timm
import torch

from intraq_cli import quantize
from tests.conftest import TINY
from tests.hub import COMMIT, serve

SCRIPT = """
import json, sys
from intraq_cli import IntraqError, load
from intraq_cli.sources import load_teacher
found = {}
for name in sys.argv[1:]:
    try:
        if name.startswith("load:"):
            network = load(name.removeprefix("load:"), device="cpu")
            import torch
            logits = network(torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8))
            found[name] = [logits.double().sum().item()]
        else:
            teacher = load_teacher(name)
            found[name] = [teacher.source, teacher.name, teacher.architecture, teacher.revision, teacher.sha256()]
    except IntraqError as error:
        found[name] = f"{error.message} | {error.hint}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each spelling gives: all asked in one process, as the client reads its endpoint when it is imported."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(network, folder / "tiny", safe_serialization=True)
    quantize("resnet20_digits", out=folder / "w4", set=list(TINY[1::2]), device="cpu")
    (folder / "empty").mkdir()
    repositories = {"org/tiny": folder / "tiny", "org/w4": folder / "w4", "org/empty": folder / "empty"}
    models = "hf-hub:org/tiny org/tiny org/tiny@main org/tiny@nowhere org/nothing org/gated org/empty org/w4"
    names = [*models.split(), "load:org/w4", "load:org/nothing", "load:org/tiny"]
    with serve(repositories, frozenset({"org/gated"})) as endpoint:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "DO_NOT_TRACK": "1"}
        env.pop("HF_HUB_OFFLINE", None)
        made = subprocess.run(
            [sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, env=env, timeout=300, check=False
        )
    assert made.returncode == 0, made.stderr
    from intraq_cli import load

    logits = load(folder / "w4", device="cpu")(torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8))
    return json.loads(made.stdout), logits.double().sum().item()


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "org/tiny", "org/tiny@main"])
def test_a_repository(answers, name):
    source, short, architecture, revision, digest = answers[0][name]
    assert source == "hf-hub:" + name.removeprefix("hf-hub:")
    assert (short, architecture, revision) == ("tiny", "test_resnet", COMMIT)
    assert digest == answers[0]["org/tiny"][4]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/tiny@nowhere", "no such revision"),
        ("org/nothing", "no repository org/nothing"),
        ("org/gated", "is gated"),
        ("org/empty", "lacks a file"),
        ("org/w4", "already quantized"),
        ("load:org/nothing", "no repository org/nothing"),
        ("load:org/tiny", "no intraq checkpoint"),
    ],
)
def test_what_cannot_be_had_says_why(answers, name, says):
    assert says in answers[0][name]


def test_a_checkpoint_comes_back_bit_for_bit(answers):
    assert answers[0]["load:org/w4"] == [answers[1]]
