"""What commands print, to a terminal and elsewhere."""

import io
import json
import re
import sys

import pytest

from tests.commands.conftest import warm
from tests.conftest import TINY
from tests.fakes import process

pytestmark = pytest.mark.usefixtures("in_a_folder")


def test_quiet_prints_only_the_path(intraq, net):
    made = intraq("quantize", *net, "--out", "a b ü", *TINY, "-q")
    assert (made.code, made.out) == (0, "a b ü\n")
    # warnings are shown (so few steps may leave a part of the loss at zero), but progress is not
    assert all(line.startswith("warning:") for line in made.err.splitlines())


def test_printed_path_starting_with_a_dash_is_not_taken_for_an_option(intraq, tmp_path, net, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = intraq("quantize", *net, "--recipe", "instant", "--out", "./-dash", "-q")
    assert (made.code, made.out) == (0, "./-dash\n")
    assert intraq("inspect", made.out.strip(), "-q").code == 0


def test_output_without_a_terminal_is_plain_lines(intraq):
    made = intraq("quantize", "resnet20_digits", "--out", "x", *TINY)
    assert "\x1b" not in made.out + made.err
    assert "synthesis: 6 steps, 32 images" in made.err
    assert "next: intraq evaluate x --data digits" in made.err
    assert "agreement" in made.out


@pytest.mark.parametrize("command", [("synthesize", "--dry-run"), ("sensitivity", "-n", "8", "--widths", "4")])
def test_settings_without_effect_cause_a_warning(intraq, net, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")  # otherwise the help breaks words
    verb, *more = command
    made = intraq(verb, *net, *more, "--set", "tuning.steps=3", "--set", "synthesis.steps=1")
    assert made.code == 0
    warnings = [line for line in made.err.splitlines() if line.startswith("warning: ") and "effect" in line]
    assert warnings == ["warning: tuning.steps=3 has no effect: this command does not use the recipe's table [tuning]"]
    assert "synthesis.steps=200" in " ".join(intraq(verb, "--help").out.split())


def test_sensitivity_tables_fit_100_columns_and_explain_their_figures(intraq, net):
    args = ("sensitivity", *net, "-n", "8", "--set", "synthesis.steps=1", "--widths", "2,3,4,5,6,7,8")
    made = intraq(*args)
    assert made.code == 0
    found = json.loads(intraq(*args, "--json").out)
    legend, *tables = made.out.strip().split("\n\n")
    assert max(len(line) for table in tables for line in table.splitlines()) <= 100
    assert "at temperature 4" in legend
    assert "when it alone has 2 bits" in legend
    for table, key in zip(tables, ("weights", "inputs", "spared"), strict=True):
        title, header, *rows = table.splitlines()
        assert header.split() == ["layer", *(word for bits in range(2, 9) for word in (str(bits), "bits"))]
        for row in rows[: len(found["layers"])]:
            name, *figures = row.split()
            (layer,) = (one for one in found["layers"] if one["name"] == name)
            told = [figure if figure == "float" else float(figure) for figure in figures]
            exact = [layer[key].get(str(bits), "float") for bits in range(2, 9)]
            assert told == [one if one == "float" else pytest.approx(one, rel=0.06) for one in exact]
    assert title == "everything quantized except this layer"
    worst = [max(one["weights"]["2"], one["inputs"].get("2", 0)) for one in found["layers"]]
    first = found["layers"][worst.index(max(worst))]["name"]
    assert [table.splitlines()[2].split()[0] for table in tables] == [first] * 3


def test_quiet_sensitivity_prints_only_its_file(intraq, net):
    args = ("sensitivity", *net, "-n", "8", "--set", "synthesis.steps=1", "--widths", "4", "-q")
    assert intraq(*args, "--out", "s.json").out == "s.json\n"
    assert "next:" not in intraq(*args).err


def test_no_color_overrides_forced_colours(tmp_path):
    env = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    made = warm("quantize", "no_such_model", **env)
    assert colour.search(made.stderr)
    assert "\x1b[2K" not in made.stderr  # colours are forced, but a file gets no progress bars
    made = warm("quantize", "no_such_model", **env, NO_COLOR="1")
    assert not colour.search(made.stderr)


def test_commands_do_not_prompt_without_a_terminal(tmp_path):
    """Standard input is closed, so that a prompt would give another error."""
    for args in (["push", str(tmp_path), "me/x"], ["quantize", "resnet20_digits", "--out", str(tmp_path)]):
        made = warm(*args)
        assert made.returncode == 1
        assert made.stderr.startswith("error: ")


def test_command_succeeds_without_a_stderr():
    words = ["evaluate", "resnet20_digits", "--data", "digits", "--limit", "4"]
    code = f"import sys; sys.stderr = None; from intraq_cli.app import main; sys.exit(main({words}))"
    made = process.run("-c", code)
    assert (made.returncode, "top-1      100.00 %" in made.stdout) == (0, True)


@pytest.mark.parametrize("words", [["--json"], []])
def test_result_is_printed_even_if_stdout_cannot_encode_its_path(intraq, monkeypatch, net, words):
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert intraq("quantize", *net, "--recipe", "instant", "--out", "grün", *words).code == 0
    text = printed.buffer.getvalue().decode("ascii")
    assert json.loads(text)["path"] == "grün" if words else "gr\\xfcn" in text
