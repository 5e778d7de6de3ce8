import json
import os
import subprocess
import sys

import pytest

from tests.conftest import INPUT, TINY

KEYS = {
    "synthesize": "path model n image_shape seconds losses teacher_accuracy heterogeneity seed device",
    "quantize": "path model w_bits a_bits recipe bytes_float bytes_quantized agreement seconds stages seed device",
    "evaluate": "target data n top1 top5 float_top1 float_top5 agreement seconds device",
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_whole_path_and_its_json(intraq, tmp_path):
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


def test_images_of_a_run_are_those_that_synthesize_writes(intraq, tmp_path):
    assert intraq("synthesize", "resnet20_digits", "--out", "i.safetensors", *TINY).code == 0
    assert intraq("quantize", "resnet20_digits", "--images", "i.safetensors", "--out", "two", *TINY).code == 0
    assert intraq("quantize", "resnet20_digits", "--out", "one", *TINY).code == 0
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_evaluate_a_float_model(intraq):
    made = intraq("evaluate", "resnet20_digits", "--data", "digits", "--json")
    found = json.loads(made.out)
    assert found["n"] == 600
    assert found["top1"] == found["float_top1"] >= 98
    assert found["agreement"] == 100


def test_quiet_prints_the_path_alone(intraq):
    made = intraq("quantize", "resnet20_digits", "--out", "a b ü", *TINY, "-q")
    assert (made.code, made.out) == (0, "a b ü\n")
    # so few steps may leave a part of the loss at zero: warnings are shown, progress is not
    assert all(line.startswith("warning:") for line in made.err.splitlines())


def test_plain_lines_without_a_terminal(intraq):
    made = intraq("quantize", "resnet20_digits", "--out", "x", *TINY)
    assert "\x1b" not in made.out + made.err
    assert "synthesis: 6 steps, 32 images" in made.err
    assert "next: intraq evaluate x --data digits" in made.err
    assert "agreement" in made.out


def test_dry_run_writes_nothing(intraq, tmp_path):
    made = intraq("quantize", "resnet20_digits", "--dry-run")
    assert made.code == 0
    assert "would write" in made.out
    assert json.loads(intraq("quantize", "resnet20_digits", "--dry-run", "--json").out)["agreement"] is None
    assert intraq("synthesize", "resnet20_digits", "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept_unless_forced(intraq, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("mine")
    made = intraq("quantize", "resnet20_digits", "--out", "x", *TINY)
    assert made.code == 1
    assert "--force" in made.err
    assert (tmp_path / "x/mine").exists()
    assert intraq("quantize", "resnet20_digits", "--out", "x", *TINY, "--force").code == 0
    assert not (tmp_path / "x/mine").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


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
def test_bad_input_is_one_line_a_hint_and_a_code(intraq, tmp_path, factory, args, code, kind):
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


def test_zoo(intraq):
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


def test_help_and_version_need_no_torch():
    script = (
        "import sys; from intraq_cli.app import main; main(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision', 'huggingface_hub')))"
    )
    for args in (["--version"], ["--help"], ["quantize", "--help"], ["zoo", "list"]):
        made = python("-c", script, *args)
        assert made.returncode == 0, made.stderr
        assert made.stdout


@pytest.mark.parametrize("model", ["timm/resnet18.a1_in1k", "resnet18", "hf-hub:timm/resnet18.a1_in1k@main"])
def test_no_network_is_one_line(model, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    made = python("-m", "intraq_cli", "quantize", model, "--json", **env)
    assert made.returncode == 1
    assert json.loads(made.stdout)["error"]["code"] == "model"
    assert "Traceback" not in made.stderr
    assert not (tmp_path / f"{model}-w4a4").exists()


def test_a_closed_pipe_is_quiet():
    made = subprocess.run(
        f"{sys.executable} -m intraq_cli zoo list | true", shell=True, capture_output=True, text=True, check=False
    )
    assert made.stderr == ""


def test_interrupted(intraq, monkeypatch, tmp_path):
    from intraq_cli import api

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "tune", interrupt)
    made = intraq("quantize", "resnet20_digits", *TINY)
    assert made.code == 130
    assert "interrupted" in made.err
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback(intraq, monkeypatch, tmp_path):
    from intraq_cli import api

    def bug(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(api, "tune", bug)
    with pytest.raises(ZeroDivisionError):
        intraq("quantize", "resnet20_digits", *TINY)
    assert list(tmp_path.iterdir()) == []
