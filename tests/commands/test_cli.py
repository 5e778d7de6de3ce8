import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import timm
import typer

from intraq_cli.app import app
from intraq_cli.commands import options
from intraq_cli.models.source import Source
from tests.conftest import INPUT, TINY
from tests.fakes import process

KEYS = {
    "synthesize": "path model n image_shape seconds losses teacher_accuracy heterogeneity seed device",
    "quantize": "path model w_bits a_bits recipe bytes_float bytes_quantized agreement seconds stages seed device",
    "evaluate": "target data n top1 top5 float_top1 float_top5 agreement seconds device",
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net(factory):
    """Command-line arguments for a network of two layers."""
    return f"{factory}:net", *INPUT


def test_synthesize_quantize_and_evaluate_print_the_documented_json(intraq, tmp_path):
    made = intraq("synthesize", "resnet20_digits", "--out", "i.safetensors", *TINY, "--json")
    assert (made.code, made.err.count("error")) == (0, 0)
    found = json.loads(made.out)
    assert set(found) >= set(KEYS["synthesize"].split())
    assert (found["n"], found["image_shape"], set(found["losses"])) == (32, [1, 8, 8], {"bns", "sil", "mdc", "total"})

    made = intraq("quantize", "resnet20_digits", "--images", "i.safetensors", *TINY, "--json")
    assert made.code == 0
    found = json.loads(made.out)
    assert set(found) >= set(KEYS["quantize"].split())
    assert (found["path"], found["w_bits"], "synthesis" in found["stages"]) == ("resnet20_digits-w4a4", 4, False)
    assert found["bytes_quantized"] == (tmp_path / "resnet20_digits-w4a4/model.safetensors").stat().st_size

    made = intraq("evaluate", "resnet20_digits-w4a4", "--data", "digits", "--limit", "50", "--json")
    assert made.code == 0
    found = json.loads(made.out)
    assert set(found) >= set(KEYS["evaluate"].split())
    assert (found["n"], found["float_top1"] > 95) == (50, True)


def test_quantize_gives_the_same_checkpoint_with_images_from_synthesize(intraq, tmp_path, net):
    assert intraq("synthesize", *net, "--out", "i.safetensors", *TINY).code == 0
    assert intraq("quantize", *net, "--images", "i.safetensors", "--out", "two", *TINY).code == 0
    assert intraq("quantize", *net, "--out", "one", *TINY).code == 0
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_float_model_can_be_evaluated_and_agrees_with_itself(intraq):
    made = intraq("evaluate", "resnet20_digits", "--data", "digits", "--json")
    found = json.loads(made.out)
    assert found["n"] == 600
    assert found["top1"] == found["float_top1"] >= 98
    assert found["agreement"] == 100


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


@pytest.mark.parametrize(
    ("args", "after"),
    [(("evaluate", "x", "--data", ""), "--data"), (("predict", "x", ""), "x"), (("zoo", "--a="), "--a=")],
)
def test_empty_argument_is_an_error_and_not_the_working_folder(intraq, args, after):
    made = intraq(*args)
    assert (made.code, made.out) == (2, "")
    assert made.err.startswith(f"error: the value after {after} is empty\n")


def test_output_without_a_terminal_is_plain_lines(intraq):
    made = intraq("quantize", "resnet20_digits", "--out", "x", *TINY)
    assert "\x1b" not in made.out + made.err
    assert "synthesis: 6 steps, 32 images" in made.err
    assert "next: intraq evaluate x --data digits" in made.err
    assert "agreement" in made.out


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


def test_dry_run_writes_nothing(intraq, tmp_path, net):
    before = list(tmp_path.iterdir())
    made = intraq("quantize", *net, "--dry-run")
    assert made.code == 0
    assert "would write" in made.out
    assert json.loads(intraq("quantize", *net, "--dry-run", "--json").out)["agreement"] is None
    assert intraq("synthesize", *net, "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == before


def test_existing_output_is_replaced_only_with_force_and_if_a_checkpoint(intraq, tmp_path, net):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("mine")
    made = intraq("quantize", *net, "--out", "x", *TINY)
    assert made.code == 1
    assert "--force" in made.err
    forced = intraq("quantize", *net, "--out", "x", *TINY, "--force")
    assert (
        forced.code,
        "x contains files that this command did not make, so --force does not replace it" in forced.err,
    ) == (1, True)
    assert (tmp_path / "x/mine").exists()
    earlier = {"quantization_config": {"quant_method": "intraq", "format_version": 1}}
    (tmp_path / "x/config.json").write_text(json.dumps(earlier))
    assert intraq("quantize", *net, "--out", "x", *TINY, "--force").code == 0
    assert not (tmp_path / "x/mine").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nets.py", "x"]


NONSENSE = [
    (("quantize", "no_such_model"), 1, "model"),
    (("quantize", "resnet20_digits", "--w", "1"), 2, "usage"),
    (("quantize", "resnet20_digits", "--a", "9"), 2, "usage"),
    (("quantize", "resnet20_digits", "--first-last-bits", "16"), 2, "usage"),
    (("quantize", "resnet20_digits", "--act-placement", "outputs"), 2, "usage"),
    (("quantize", "resnet20_digits", "--recipe", "none"), 1, "recipe"),
    (("quantize", "resnet20_digits", "--set", "tuning.steps=no"), 1, "recipe"),
    (("quantize", "resnet20_digits", "--device", "tpu"), 2, "usage"),
    (("quantize", "resnet20_digits", "--device", "cuda:99"), 1, "device"),
    (("quantize", "resnet20_digits", "--images", "none.safetensors"), 1, "data"),
    (("quantize", "resnet20_digits", "--out", "no/such/folder"), 1, "output"),
    (("quantize", "resnet20_digits", "--input-size", "3x8x8"), 2, "usage"),
    (("quantize", "resnet20_digits", "--input-size", "3,8,8"), 1, "model"),
    (("quantize", "resnet20_digits", "--mean", "123.68"), 2, "usage"),
    (("quantize", "resnet20_digits", "--crop-pct", "3"), 2, "usage"),
    (("quantize", "resnet20_digits", "--interpolation", "sharpest"), 2, "usage"),
    (("quantize", "resnet20_digits", "--batch-size", "0"), 2, "usage"),
    (("quantize", "FACTORY:no_norm", *INPUT), 1, "model"),
    (("quantize", "FACTORY:fixed_size", "--input-size", "3,9,9", *INPUT[2:]), 1, "model"),
    (("quantize",), 2, "usage"),
    (("synthesize", "resnet20_digits", "-n", "0"), 2, "usage"),
    (("evaluate", "resnet20_digits", "--data", "nowhere"), 1, "data"),
    (("evaluate", "resnet20_digits"), 2, "usage"),
    (("evaluate", "resnet20_digits", "--data", "FOLDER"), 1, "data"),
    (("evaluate", "FOLDER", "--data", "digits"), 1, "model"),
    (("zoo", "show", "defualt"), 1, "recipe"),
    (("nonsense",), 2, "usage"),
]


@pytest.mark.parametrize(("args", "code", "kind"), NONSENSE, ids=[" ".join(a) for a, _, _ in NONSENSE])
def test_bad_input_gives_an_error_line_a_hint_and_an_exit_code(intraq, tmp_path, factory, args, code, kind):
    (tmp_path / "data/77").mkdir(parents=True)
    args = [a.replace("FACTORY", factory).replace("FOLDER", "data") for a in args]
    before = sorted(tmp_path.rglob("*"))
    made = intraq(*args)
    assert made.code == code
    assert made.out == ""
    assert "Traceback" not in made.err
    if code == 1:
        assert [line.split(":")[0] for line in made.err.strip().splitlines()] == ["error", "hint"]
    made = intraq(*args, "--json")
    assert made.code == code
    error = json.loads(made.out)["error"]
    assert error["code"] == kind
    assert error["message"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("--limit", "0"), "'--limit': must be at least 1", "see --help"),
        (("--limit", "few"), "'--limit': must be a whole number", "see --help"),
        (("--crop-pct", "3"), "'--crop-pct': must be at most 2", "see --help"),
        (("--interpolation", "x"), "'--interpolation': 'x' is not one of 'nearest', ", "see --help"),
        (("--mean", "abc"), "--mean abc: must be numbers separated by commas", "e.g. --mean 0.485,0.456,0.406"),
        (
            ("--input-size", "1,8"),
            "--input-size 1,8: must be 3 whole numbers separated by commas",
            "e.g. --input-size 3,224,224",
        ),
    ],
)
def test_error_for_an_invalid_option_value_says_what_is_allowed(intraq, args, message, hint):
    made = intraq("evaluate", "x", "--data", "digits", *args, "--json")
    error = json.loads(made.out)["error"]
    assert (made.code, error["hint"]) == (2, hint)
    assert message in error["message"]
    assert "Value error" not in error["message"]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("quantize", "x", "--seeds", "1,a"), "e.g. --seeds 0,1,2"),
        (("images", "x", "--classes", "y"), "e.g. --classes 0,3"),
        (("sensitivity", "x", "--widths", "y"), "e.g. --widths 2,4,8"),
    ],
)
def test_hint_for_an_invalid_list_gives_an_example_of_the_same_option(intraq, args, hint):
    made = intraq(*args, "--json")
    assert (made.code, json.loads(made.out)["error"]["hint"]) == (2, hint)


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


def warm(*args, **env):
    """Run the command line in a separate process that has already imported torch."""
    return process.run("-m", "intraq_cli", *args, env={**os.environ, **env}, timeout=120)


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


@pytest.mark.parametrize("model", ["timm/resnet18.a1_in1k", "resnet18", "hf-hub:timm/resnet18.a1_in1k@main"])
def test_unreachable_hub_is_a_model_error_without_a_traceback(model, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    made = warm("quantize", model, "--json", **env)
    assert made.returncode == 1
    assert json.loads(made.stdout)["error"]["code"] == "model"
    assert "Traceback" not in made.stderr
    assert not (tmp_path / f"{model}-w4a4").exists()


def test_offline_mode_of_the_hub_prevents_torchvision_downloads_too(tmp_path):
    made = warm("quantize", "torchvision:resnet18", HF_HUB_OFFLINE="1", TORCH_HOME=str(tmp_path))
    assert made.returncode == 1
    assert "HF_HUB_OFFLINE is set" in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["test_vit", "torchvision:convnext_tiny"])
def test_network_without_batch_norm_is_refused_before_any_download(model, tmp_path):
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    made = warm("quantize", model, **env)
    assert made.returncode == 1
    assert "no batch norm" in made.stderr


@pytest.mark.parametrize("command", ["zoo list", "zoo show results", "zoo show results --csv", "zoo list --json"])
def test_closed_pipe_ends_the_command_quietly_with_exit_code_141(command):
    read, write = os.pipe()
    os.close(read)
    made = subprocess.run(
        [sys.executable, "-m", "intraq_cli", *command.split()], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (made.returncode, made.stderr) == (141, b"")


FULL = [("zoo", "list"), ("zoo", "show", "results"), ("--help",), ("zoo", "list", "--json")]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", FULL, ids=" ".join)
def test_full_disk_behind_stdout_is_a_one_line_error(args, unbuffered):
    with open("/dev/full", "w") as full:
        made = subprocess.run(
            [sys.executable, "-m", "intraq_cli", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert made.returncode == 1
    assert made.stderr == "error: cannot write to standard output: No space left on device\n"


def test_interruption_keeps_the_unfinished_run_and_exits_with_130(intraq, monkeypatch, tmp_path, net):

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("intraq_cli.jobs.pipeline.tune", interrupt)
    made = intraq("quantize", *net, *TINY)
    assert made.code == 130
    assert made.err.endswith("run the same command again to resume\ninterrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-w4a4.unfinished", "nets.py"]
    made = intraq("quantize", *net, *TINY, "--json")
    assert (made.code, json.loads(made.out)["error"]["code"]) == (130, "interrupted")


@pytest.mark.parametrize("module", ["typer", "intraq_cli.commands.images"])
def test_ctrl_c_during_imports_ends_the_command_without_a_traceback(module):
    """A module finder plays the user, who presses Ctrl-C while ``module`` is being imported."""
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
class Impatient:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from intraq_cli.__main__ import main
main()
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_typer_builds_the_commands_exits_with_130(intraq, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    made = intraq("zoo", "list")
    assert (made.code, made.out, made.err.strip()) == (130, "", "interrupted")


def test_unexpected_exception_is_not_caught_and_keeps_the_unfinished_run(intraq, monkeypatch, tmp_path, net):

    def bug(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("intraq_cli.jobs.pipeline.tune", bug)
    with pytest.raises(ZeroDivisionError):
        intraq("quantize", *net, *TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-w4a4.unfinished", "nets.py"]


def test_instant_recipe_needs_no_images(intraq, tmp_path):
    made = intraq("quantize", "resnet20_digits", "--recipe", "instant", "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    run = json.loads((tmp_path / "resnet20_digits-w4a4/run.json").read_text())
    assert run["measured"]["logits_error"] == found["logits_error"]
    assert (found["agreement"], found["heterogeneity"], found["held_out"]) == (None, None, 0)
    assert {p.name for p in (tmp_path / "resnet20_digits-w4a4").iterdir()} == {
        *("model.safetensors", "config.json", "run.json", "README.md", "report.html")
    }
    found = json.loads(intraq("evaluate", "resnet20_digits-w4a4", "--data", "digits", "--json").out)
    assert found["float_top1"] - found["top1"] < 10


def test_recipe_without_images_refuses_tuning_and_synthesis(intraq):
    made = intraq("quantize", "resnet20_digits", "--recipe", "instant", "--set", "tuning.steps=5")
    assert made.code == 1
    assert "tuning.steps=0" in made.err
    made = intraq("synthesize", "resnet20_digits", "--recipe", "instant")
    assert made.code == 2
    assert "makes no images" in made.err


def test_inspect_agrees_with_the_checkpoint_that_quantize_writes(intraq, tmp_path, small_digits):
    args = (small_digits, "--w", "3", "--first-last-bits", "6")
    found = json.loads(intraq("inspect", *args, "--json").out)
    assert (found["weights"], found["num_classes"], found["batch_norms"]) == ("not read", 10, 7)
    assert [layer["w_bits"] for layer in found["layers"]] == [6] + [3] * 6 + [6]
    assert found["low_bit_share"] == 100
    intraq("quantize", *args, "--recipe", "instant", "--out", "made", "-q")
    assert found["bytes_quantized"] == pytest.approx((tmp_path / "made/model.safetensors").stat().st_size, rel=0.03)
    table = intraq("inspect", small_digits).out.splitlines()
    assert table[0].split()[:7] == ["layer", "kind", "weight", "W", "A", "parameters", "multiply-adds"]
    assert table[1].split()[:5] == ["conv1", "conv2d", "16x1x3x3", "4", "8"]


def test_inspect_refuses_a_truncated_checkpoint(intraq, tmp_path, small_digits):
    intraq("quantize", small_digits, "--recipe", "instant", "--out", tmp_path / "made")
    file = tmp_path / "made/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    ran = intraq("inspect", tmp_path / "made", "--json")
    assert (ran.code, json.loads(ran.out)["error"]["code"]) == (1, "checkpoint")
    assert "is damaged" in ran.err


def test_inspect_shows_the_share_of_each_layer_and_sorts_by_it(intraq, small_digits):
    found = json.loads(intraq("inspect", small_digits, "--json").out)["layers"]
    for column, key in (("bytes", "bytes"), ("multiply-adds", "multiply_adds")):
        lines = intraq("inspect", small_digits, "--sort", column).out.split("\n\n")[0].splitlines()
        header, *rows = [line.split() for line in lines]
        assert header[-4:] == ["multiply-adds", "adds%", "bytes", "bytes%"]
        assert [row[0] for row in rows] == [one["name"] for one in sorted(found, key=lambda one: -one[key])]
        for name, share in ((row[0], float(row[-1 if key == "bytes" else -3])) for row in rows):
            (layer,) = (one for one in found if one["name"] == name)
            assert share == pytest.approx(100 * layer[key] / sum(one[key] for one in found), abs=0.051)
    assert intraq("inspect", small_digits, "--sort", "colour").code == 2


def test_quiet_inspect_prints_only_the_table(intraq, small_digits):
    full, quiet = intraq("inspect", small_digits).out, intraq("inspect", small_digits, "-q").out
    assert quiet == full.split("\n\n")[0] + "\n"


@pytest.mark.parametrize(
    "args", [("inspect", "resnet20_digits", "--bits-template"), ("zoo", "show", "results", "--csv")], ids=" ".join
)
def test_two_output_formats_at_once_are_refused(intraq, args):
    made = intraq(*args, "--json")
    assert (made.code, json.loads(made.out)["error"]["hint"]) == (2, "give only one of them")


def test_inspect_describes_timm_models_without_downloads(intraq, monkeypatch):
    import timm

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = json.loads(intraq("inspect", "mobilenetv2_035", "--act-placement", "activations", "--json").out)
    assert found["parameters"] == sum(p.numel() for p in timm.create_model("mobilenetv2_035").parameters())
    assert found["input_size"] == [3, 224, 224]
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["conv_stem"]["a_bits"] is None  # its input is the image
    assert by_name["blocks.0.0.conv_pw"]["a_bits"] == 4  # its input comes from a ReLU6
    assert 0 < found["low_bit_share"] < 100


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("test_vit", "no batch norm"),
        ("test_convnext", "no batch norm"),
        ("resnet17", "did you mean"),
    ],
)
def test_inspect_refuses_models_that_quantize_would_refuse(intraq, model, reason):
    made = intraq("inspect", model)
    assert (made.code, made.out) == (1, "")
    assert reason in made.err


@pytest.mark.slow
def test_timm_model_can_be_quantized_with_weights_from_a_file(intraq, tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    save_file(network.state_dict(), "w.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, "w.pth")
    given = ("--weights", "w.pth", "--input-size", "3,32,32", "--recipe", "instant", "--out", "made")
    made = intraq("quantize", "test_resnet", *given)
    assert made.code == 0, made.err
    run, config = (json.loads((tmp_path / "made" / name).read_text()) for name in ("run.json", "config.json"))
    assert (run["teacher"]["weights"], config["num_classes"]) == ("w.pth", 7)
    assert run["teacher"]["sha256"] == Source.parse("test_resnet", weights="w.safetensors").load().sha256


def test_malicious_or_unsuitable_weights_files_are_refused(intraq, tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (os.system, ("touch evil",))

    torch.save({"state_dict": Evil()}, "evil.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.zeros(2)}, "other.pth")
    for file, reason in (
        ("evil.pth", "cannot read"),
        ("text.pth", "cannot read"),
        ("other.pth", "does not match"),
        ("none.pth", "there is no file none.pth"),
    ):
        made = intraq("quantize", "test_resnet", "--weights", file, "--recipe", "instant")
        assert made.code == 1, made.err
        assert reason in made.err
        assert "Traceback" not in made.err
    assert not (tmp_path / "evil").exists()


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


def test_run_json_records_the_command_as_it_was_given(intraq, factory, tmp_path):
    out = tmp_path / "the out"
    words = ["quantize", f"{factory}:net", *INPUT, "--recipe", "instant", "--out", str(out), "-q"]
    assert intraq(*words).code == 0
    assert shlex.split(json.loads((out / "run.json").read_text())["command"]) == ["intraq", *words]


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
