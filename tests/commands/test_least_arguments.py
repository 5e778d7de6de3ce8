"""Every command with only its required arguments, in each output format: what people type first."""

import json

import pytest
from PIL import Image

from tests.conftest import TINY

pytest.importorskip("onnxruntime")
COMMANDS = [
    "export made",
    "images images.safetensors",
    "evaluate made --data digits",
    "predict made picture.png",
    "inspect made",
    "inspect MODEL",
    "compare made made",
    "report made",
    "push made org/name --dry-run",
    "quantize MODEL --recipe instant --dry-run",
    "synthesize MODEL --dry-run",
    "zoo list",
    "zoo show default",
    "zoo show results",
]


NOT_QUIET = ("predict", "zoo show")
"""These print nothing but the answer anyway."""
ONLY_QUIET = ("export",)
"""It takes seconds; tests of exports print its result in the other formats."""


@pytest.fixture(scope="module")
def place(small_digits, tmp_path_factory):
    """A folder with a checkpoint, an image file and a picture."""
    from intraq_cli import quantize, synthesize

    folder = tmp_path_factory.mktemp("place")
    quantize(small_digits, w=8, a=8, recipe="instant", act_placement="integer", out=folder / "made", device="cpu")
    synthesize(small_digits, out=folder / "images.safetensors", set=list(TINY[1:6:2]), device="cpu")
    Image.new("L", (8, 8), "white").save(folder / "picture.png")
    return folder


@pytest.mark.parametrize(
    ("command", "way"),
    [
        (c, way)
        for c in COMMANDS
        for way in ("", "--json", "-q")
        if not c.startswith(ONLY_QUIET if way != "-q" else NOT_QUIET)
    ],
)
def test_command_runs_with_only_its_required_arguments(intraq, place, small_digits, monkeypatch, command, way):
    monkeypatch.chdir(place)
    again = ["--force"] if command.split()[0] in ("export", "report") else []
    words = [small_digits if word == "MODEL" else word for word in command.split()]
    made = intraq(*words, *again, *way.split())
    assert made.code == 0, made.err
    if way == "--json":
        json.loads(made.out)
    elif way == "-q" and command.split()[0] in ("export", "report", "push"):
        assert len(made.out.splitlines()) == 1
