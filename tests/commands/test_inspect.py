"""The command ``inspect``."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("in_a_folder")


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
