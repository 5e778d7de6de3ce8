"""The scripts of docs/scripts.md, run with the bundled model, the digits and a local Hub."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from intraq_cli.zoo import model_folder
from tests.fakes.hub import Hub

SCRIPTS = (Path(__file__).parents[2] / "docs/scripts.md").read_text(encoding="utf-8")
TOKEN = "hf_" + "w" * 34


def block(kind: str, *holding: str) -> str:
    """The one code block on the page that contains these texts, changed to other data and fewer models and widths."""
    codes = re.findall(rf"```{kind}\n(.*?)```", SCRIPTS, re.DOTALL)
    (found,) = [code for code in codes if all(text in code for text in holding)]
    for theirs, ours in (
        ("imagenet/val", "digits"),
        (" resnet50 regnety_032 mobilenetv2_100 efficientnet_b0", ""),
        (', "resnet50", "regnety_032", "mobilenetv2_100", "efficientnet_b0"', ","),
        ("8 5 4", "8 3"),
        ("8, 5, 4", "8, 3"),
        ("--w 4 --a 4", "--w 4 --a 4 --recipe instant"),
        ("w=4, a=4", 'w=4, a=4, recipe="instant"'),
    ):
        found = found.replace(theirs, ours)
    return found


@pytest.fixture
def run(tmp_path):
    """Runs a shell script, or Python, where ``resnet18`` is a folder with the bundled model; returns its output."""
    shutil.copytree(model_folder("resnet20_digits"), tmp_path / "resnet18")
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin/intraq"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m intraq_cli "$@"\n')
    shim.chmod(0o755)

    def call(*command: str, **env: str) -> str:
        made = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
            env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **env},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return made.stdout

    return call


needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not on this machine")


@pytest.mark.slow
@needs_jq
def test_shell_and_python_loops_over_models_and_widths_give_the_same_rows(run):
    rows = run("sh", "-c", block("sh", "for model in", "jq")).splitlines()
    assert [row.split("\t")[:3] for row in rows] == [["resnet18-w8a8", "8", "600"], ["resnet18-w3a3", "3", "600"]]
    shutil.rmtree(Path(run("pwd").strip()) / "resnet18-w8a8")
    shutil.rmtree(Path(run("pwd").strip()) / "resnet18-w3a3")
    twins = run(sys.executable, "-c", block("python", "for model in")).splitlines()
    for row, twin in zip(rows, twins, strict=True):
        assert row.split("\t")[:3] == twin.split("\t")[:3]
        assert [float(x) for x in row.split("\t")[3:]] == pytest.approx([float(x) for x in twin.split("\t")[3:]])


@pytest.mark.slow
@needs_jq
def test_shell_and_python_scripts_push_only_models_with_a_small_drop(run, tmp_path):
    hub = Hub({TOKEN: {"my-name"}})
    with hub.serve() as endpoint:
        env = {
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "DO_NOT_TRACK": "1",
        }
        run("sh", "-c", block("sh", "push", "measured.json"), **env)
        assert "top1" in hub.repositories["my-name/resnet18-w4a4"].files["run.json"].decode()
        hub.repositories.clear()
        shutil.rmtree(tmp_path / "resnet18-w4a4")
        run(sys.executable, "-c", block("python", "push", "< 1"), **env)
        assert "model.safetensors" in hub.repositories["my-name/resnet18-w4a4"].files
        hub.repositories.clear()
        too_much = block("sh", "push", "measured.json").replace("< 1'", "< -100'")
        run("sh", "-c", f"rm -r resnet18-w4a4\n{too_much}", **env)
        assert not hub.repositories
