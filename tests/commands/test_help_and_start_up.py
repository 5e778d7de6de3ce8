"""Help, the zoo, shell completion, and a start without importing torch."""

import json
import os
import subprocess
import sys

import pytest
import timm
import typer

from intraq_cli.app import app
from intraq_cli.commands import options
from tests.fakes import process

pytestmark = pytest.mark.usefixtures("in_a_folder")


def test_zoo_lists_and_shows_every_recipe_model_and_table(intraq):
    listed = json.loads(intraq("zoo", "list", "--json").out)
    assert "resnet20_digits" in listed["models"]
    for name in [*listed["recipes"], *listed["models"], *listed["results"]]:
        assert intraq("zoo", "show", name).out.strip()
        assert json.loads(intraq("zoo", "show", name, "--json").out)["name"] == name
    assert "default" in intraq("zoo", "list").out


def python(*args, **env):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env={**os.environ, **env}, check=False
    )


def test_options_are_grouped_in_help(intraq):
    """Each group with options of a command has a panel, and no group names an option that does not exist."""
    out = intraq("quantize", "--help").out
    assert all(f"─ {panel} ─" in out for panel in ("Options", *options.PANELS))
    assert "Bits by layer" not in intraq("evaluate", "--help").out
    commands = [typer.main.get_command(app), *typer.main.get_command(app).commands.values()]
    commands += typer.main.get_command(app).commands["zoo"].commands.values()
    known = {name for command in commands for option in command.params for name in option.opts}
    assert {name for members in options.PANELS.values() for name in members} <= known


def test_help_version_and_zoo_do_not_import_torch():
    script = (
        "import sys; from intraq_cli.app import main; main(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision', 'huggingface_hub')))"
    )
    for args in (["--version"], ["--help"], ["quantize", "--help"], ["push", "--help"], ["zoo", "list"]):
        made = python("-c", script, *args)
        assert made.returncode == 0, made.stderr
        assert made.stdout


def test_library_versions_are_found_without_importing_the_libraries():
    made = process.run("-c", "import json, sys; from intraq_cli.jobs.manifest import versions; "
                       "print(json.dumps([versions(), 'timm' in sys.modules]))", timeout=120)  # fmt: skip
    told, loaded = json.loads(made.stdout)
    assert not loaded
    assert {"intraq", "python", "torch", "torchvision", "timm"} == told.keys()
    assert told["timm"] == timm.__version__


def test_shell_completion_offers_commands_options_recipes_and_models():
    for line, expected in (
        ("intraq qu", {"quantize"}),
        ("intraq quantize resnet20_di", {"resnet20_digits"}),
        ("intraq quantize x --recipe pa", {"paper-cifar10", "paper-cifar100", "paper-imagenet"}),
        ("intraq quantize x --act-p", {"--act-placement"}),
    ):
        words = len(line.split()) - 1
        made = python("-m", "intraq_cli", _INTRAQ_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(words))
        assert set(made.stdout.split()) == expected, made.stderr
