"""Checkpoints: their files and contents, the networks that are loaded from them, and the teachers they name."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from intraq_cli import evaluate, inspect, load, quantize
from intraq_cli.errors import CheckpointError, ModelError, OutputError
from intraq_cli.graph import capture, recall
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.input_spec import InputSpec
from tests.conftest import SPEC, TINY_SET
from tests.programs.fuzz_seeds import write_checkpoint


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
@pytest.mark.parametrize("w", [2, 5, 8])
def test_loaded_checkpoint_gives_the_same_logits_bit_for_bit(factory, tmp_path, placement, w, monkeypatch):
    seen = {}
    from intraq_cli.jobs import pipeline

    frozen = pipeline._frozen

    def spy(student):
        stored = frozen(student)
        seen["x"] = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        seen["logits"] = student(seen["x"])
        return stored

    monkeypatch.setattr(pipeline, "_frozen", spy)
    model = f"{factory}:net"
    quantize(model, w=w, a=4, out=tmp_path / "out", set=TINY_SET, act_placement=placement, device="cpu", **SPEC)
    loaded = load(tmp_path / "out", model=model, device="cpu")
    assert torch.equal(loaded(seen["x"]), seen["logits"])


def test_checkpoints_of_one_architecture_are_captured_once_and_share_no_values(digits, tmp_path, monkeypatch):
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    again = shutil.copytree(digits, tmp_path / "again")
    monkeypatch.setattr(recall, "_graphs", {})
    first = load(digits, device="cpu")
    wanted = first(x)
    for tensor in [*first.parameters(), *first.buffers()]:
        tensor.data.zero_()
    monkeypatch.setattr(capture, "_exported", lambda *args: pytest.fail("captured twice"))
    assert torch.equal(load(again, device="cpu")(x), wanted)


def test_weights_are_stored_packed_without_a_float_copy(digits, small_digits):
    tensors = load_file(digits / "model.safetensors")
    assert not [k for k in tensors if k.endswith(("conv1.weight", "conv2.weight", "fc.weight"))]
    words = tensors["stages.2.0.conv2.weight_packed"]
    assert (words.dtype, tuple(words.shape)) == (torch.int32, (64, 64 * 9 * 3 // 32))
    assert tensors["stages.2.0.conv2.weight_shape"].tolist() == [64, 64, 3, 3]
    assert tensors["stages.2.0.conv2.weight_scale"].shape == (64, 1)
    assert tensors["stages.2.0.conv2.weight_zero_point"].shape == (64 * 3 // 32, 1)
    assert tensors["stages.2.0.conv2.input_scale"].shape == ()
    with safe_open(digits / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert (digits / "model.safetensors").stat().st_size * 6.5 < Path(small_digits, "model.safetensors").stat().st_size


def test_checkpoint_folder_has_the_documented_files_and_contents(digits):
    assert {p.name for p in digits.iterdir()} == {
        "model.safetensors",
        "config.json",
        "run.json",
        "README.md",
        "samples.png",
        "report.html",
        "metrics.jsonl",
    }
    config, run = (json.loads((digits / name).read_text()) for name in ("config.json", "run.json"))
    assert config["architecture"] == "cifar_resnet"
    assert config["quantization_config"]["quant_method"] == "intraq"
    assert config["quantization_config"]["modules"]["fc"] == 3
    assert run["recipe"]["tuning"]["steps"] == 3
    assert len(run["teacher"]["sha256"]) == 64
    assert run["measured"]["bytes_quantized"] == (digits / "model.safetensors").stat().st_size
    card = (digits / "README.md").read_text()
    assert "library_name: intraq" in card
    assert "license: cc-by-4.0" in card


def test_same_seed_gives_identical_checkpoints_and_another_seed_does_not(tmp_path, digits, small_digits):
    quantize(small_digits, w=3, a=4, out=tmp_path / "again", set=TINY_SET, device="cpu")
    for name in ("model.safetensors", "config.json", "samples.png"):
        assert (tmp_path / "again" / name).read_bytes() == (digits / name).read_bytes()
    quantize(small_digits, w=3, a=4, out=tmp_path / "other", set=TINY_SET, device="cpu", seed=1)
    assert (tmp_path / "other/model.safetensors").read_bytes() != (digits / "model.safetensors").read_bytes()


def test_python_call_recorded_in_run_json_reproduces_the_checkpoint(tmp_path, digits, monkeypatch):
    called = json.loads((digits / "run.json").read_text())["command"]
    assert "bits=" not in called  # defaults are left out
    monkeypatch.chdir(tmp_path)
    eval(called.replace(repr(str(digits)), "'again'"))
    assert (tmp_path / "again/model.safetensors").read_bytes() == (digits / "model.safetensors").read_bytes()


def test_load_runs_no_network_code_that_the_user_did_not_name(factory, tmp_path):
    quantize(f"{factory}:net", out=tmp_path / "out", set=TINY_SET, device="cpu", **SPEC)
    with pytest.raises(ModelError, match="contains no code") as caught:
        load(tmp_path / "out")
    assert "--model file.py:factory" in caught.value.hint


def test_checkpoint_without_run_json_loads_but_has_no_teacher_to_evaluate(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "copy")
    (tmp_path / "copy/run.json").unlink()
    load(tmp_path / "copy", device="cpu")
    with pytest.raises(CheckpointError, match="does not say which model it was made from"):
        evaluate(tmp_path / "copy", data="digits", device="cpu")
    with pytest.raises(CheckpointError, match=r"copy has no run\.json, which describes its layers"):
        inspect(tmp_path / "copy")


def test_error_about_a_folder_with_a_short_name_is_not_garbled(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, "e")
    Path("e/run.json").unlink()
    for typed in ("e", "./e", "e/"):
        with pytest.raises(CheckpointError) as caught:
            inspect(typed)
        assert caught.value.message == "e has no run.json, which describes its layers"


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ({"source": "nets.py:net"}, "was made from nets.py:net, whose code it does not contain"),
        ({"source": "local-dir:nowhere"}, "the float model cannot be loaded"),
        ({"source": "x" * 900}, "the float model cannot be loaded"),
        ({"source": "resnet18", "weights": "weights.pth"}, "the float model cannot be loaded"),
        ({"source": "{float}"}, "has 4 classes, the checkpoint 10"),
    ],
)
def test_teacher_named_in_run_json_is_not_trusted(digits, tmp_path, monkeypatch, teacher, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("raise SystemExit")
    (tmp_path / "weights.pth").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    network = build_architecture("cifar_resnet", 4, {"blocks": 1, "in_chans": 1})
    (tmp_path / "float").mkdir()
    save_file(network.state_dict(), tmp_path / "float/model.safetensors")
    cfg = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5]}
    args = {"blocks": 1, "in_chans": 1}
    config = {"architecture": "cifar_resnet", "num_classes": 4, "model_args": args, "pretrained_cfg": cfg}
    (tmp_path / "float/config.json").write_text(json.dumps(config))
    shutil.copytree(digits, tmp_path / "copy")
    (tmp_path / "copy/run.json").write_text(json.dumps({"teacher": teacher}).replace("{float}", "float"))
    with pytest.raises((CheckpointError, ModelError), match=says):
        evaluate("copy", data="digits", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_checkpoint_from_the_hub_cannot_name_local_files_as_its_teacher(digits, monkeypatch, tmp_path):
    shutil.copytree(digits, tmp_path / "snapshot")
    (tmp_path / "snapshot/run.json").write_text(json.dumps({"teacher": {"source": "resnet20_digits"}}))
    monkeypatch.setattr("intraq_cli.jobs.targets.fetch_checkpoint", lambda repository: tmp_path / "snapshot")
    assert evaluate("org/name", data="digits", limit=20, device="cpu").n == 20  # the bundled teacher
    for teacher in ({"source": str(tmp_path)}, {"source": "local-dir:x"}, {"source": "resnet18", "weights": "w.pth"}):
        (tmp_path / "snapshot/run.json").write_text(json.dumps({"teacher": teacher}))
        with pytest.raises(ModelError, match="are not followed") as caught:
            evaluate("org/name", data="digits", device="cpu")
        assert "--model" in caught.value.hint


SLOW = [pytest.param(f"torchvision:{name}", marks=pytest.mark.slow) for name in ("regnet_y_400mf", "mobilenet_v2")]


@pytest.mark.parametrize("architecture", ["test_resnet", *SLOW])
def test_architectures_are_rebuilt_from_their_checkpoint(tmp_path, architecture):
    """Including those whose constructors read values of tensors."""
    spec = InputSpec((3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    write_checkpoint(tmp_path / "made", architecture, {}, spec, "inputs")
    network = load(tmp_path / "made", device="cpu")
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.fixture(scope="module")
def integer_digits(tmp_path_factory, small_digits):
    folder = tmp_path_factory.mktemp("made") / "digits"
    quantize(small_digits, w=4, a=4, out=folder, set=TINY_SET, device="cpu", act_placement="integer")
    return folder


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, and warns that bounds become constants
@pytest.mark.parametrize("which", ["digits", pytest.param("integer_digits", marks=pytest.mark.slow)])
def test_loaded_network_can_be_traced_exported_compiled_and_cast(which, request, random):
    network = load(request.getfixturevalue(which))
    x = torch.randn(4, 1, 8, 8, generator=random)
    with torch.no_grad():
        logits = network(x)
        assert torch.equal(torch.jit.trace(network, x)(x), logits)
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(network, (x,), dynamic_shapes=dynamic).module()
        assert torch.equal(exported(x[:3]), network(x[:3]))
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), logits)
        half = copy.deepcopy(network).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - logits).abs().mean() < 0.3 * logits.std()


def test_loaded_network_has_its_transform_and_label_names(digits):
    network = load(digits)
    assert network.transform(Image.new("L", (20, 30), 255)).shape == (1, 8, 8)
    assert network.label_names == [str(digit) for digit in range(10)]
    assert next(network.parameters()).device.type == "cpu"


def test_force_does_not_replace_other_folders_with_a_config_json(small_digits, tmp_path):
    """Such as a float model's folder, or one of another tool."""
    given = {"w": 8, "a": 8, "recipe": "instant", "device": "cpu", "force": True}
    (tmp_path / "app").mkdir()
    (tmp_path / "app/config.json").write_text('{"name": "my web app"}')
    shutil.copytree(small_digits, tmp_path / "model")
    for folder in ("app", "model"):
        before = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        with pytest.raises(
            OutputError, match="contains files that this command did not make, so force=True does not replace it"
        ):
            quantize(small_digits, out=tmp_path / folder, **given)
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == before
