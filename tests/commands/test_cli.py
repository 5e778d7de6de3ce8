"""The commands ``synthesize``, ``quantize`` and ``evaluate``: their results and their files."""

import json
import shlex

import pytest

from tests.conftest import INPUT, TINY

pytestmark = pytest.mark.usefixtures("in_a_folder")

KEYS = {
    "synthesize": "path model n image_shape seconds losses teacher_accuracy heterogeneity seed device",
    "quantize": "path model w_bits a_bits recipe bytes_float bytes_quantized agreement seconds stages seed device",
    "evaluate": "target data n top1 top5 float_top1 float_top5 agreement seconds device",
}


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


def test_run_json_records_the_command_as_it_was_given(intraq, factory, tmp_path):
    out = tmp_path / "the out"
    words = ["quantize", f"{factory}:net", *INPUT, "--recipe", "instant", "--out", str(out), "-q"]
    assert intraq(*words).code == 0
    assert shlex.split(json.loads((out / "run.json").read_text())["command"]) == ["intraq", *words]
