"""MODEL: what it may name, with which options, and the messages about what it does not name."""

import pytest
import timm
import torch

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import capture_teacher
from tests.models.teachers import INPUT, load_teacher


def test_factory_requires_and_uses_the_input_options(factory):
    teacher = load_teacher(f"{factory}:net", INPUT)
    assert teacher.spec.mean == (0.5, 0.5, 0.5)
    low, high = teacher.spec.bounds
    assert (low[0], high[0]) == (-2, 2)
    assert capture_teacher(teacher).num_classes == 3
    with pytest.raises(ModelError) as caught:
        load_teacher(f"{factory}:net")
    assert "--input-size" in caught.value.hint


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nothing", "has no function nothing"),
        ("broken", "KeyError: 'weights.pth'"),
        ("number", "returned int"),
        ("", "is not a function name"),
    ],
)
def test_failing_factory_error_names_the_cause(factory, function, says):
    with pytest.raises(ModelError, match=says):
        load_teacher(f"{factory}:{function}", INPUT)


def test_what_a_file_imports_is_not_suggested_as_a_factory(tmp_path):
    (tmp_path / "nets.py").write_text("import torch\n\ndef torch_net(): ...\n")
    for name, hint in (("torch", "did you mean torch_net?"), ("torch_nets", "did you mean torch_net?")):
        with pytest.raises(ModelError, match=f"has no function {name}") as caught:
            load_teacher(f"{tmp_path}/nets.py:{name}", INPUT)
        assert caught.value.hint == hint


def test_input_options_that_do_not_fit_the_network_are_reported(factory):
    wrong = InputOverride((3, 9, 9), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ModelError, match="fails on an input of 3,9,9") as caught:
        capture_teacher(load_teacher(f"{factory}:fixed_size", wrong))
    assert "--input-size" in caught.value.hint
    with pytest.raises(UsageError, match="--input-size C,H,W has 3 channels"):
        load_teacher(f"{factory}:net", InputOverride((3, 8, 8), (0.5,), (0.25,) * 3))
    with pytest.raises(ModelError, match="3 means and 1 standard deviations"):
        load_teacher("resnet20_digits", InputOverride(None, (0.5,) * 3))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("resnet81", "did you mean resnet"),
        ("resnet18.a9_in1k", "a1_in1k"),
        ("torchvision:resnet81", "did you mean resnet"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("local-dir:nowhere", "no config.json"),
        ("what is this", "there is no model or folder"),
        ("mine-w4a5", "did you mean mine-w4a4"),
        ("./mine-w4a5", "there is no folder ./mine-w4a5"),
        ("a/b/c", "there is no folder a/b/c"),
    ],
)
def test_unknown_model_error_is_one_line_with_a_suggestion(model, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine-w4a4").mkdir()
    (tmp_path / "mine-w4a4/config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load_teacher(model)
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in caught.value.message


def test_unknown_timm_tag_is_rejected_on_the_meta_device_too():
    with pytest.raises(ModelError, match="no weights 'nonsense' for resnet18"):
        Source.parse("resnet18.nonsense").on_meta()


@pytest.mark.parametrize("model", ["resnet20_digits", "torchvision:resnet18", "org/name", "here"])
def test_weights_file_is_only_accepted_with_a_timm_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match=f"--weights cannot be used with {model}"):
        load_teacher(model, weights=tmp_path / "weights.pth")


def test_timm_name_with_a_weights_file_ignores_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    with pytest.raises(ModelError, match=r"there is no file weights\.pth"):
        load_teacher("resnet18", weights="weights.pth")


def test_only_factories_and_modules_need_code():
    assert needs_code("a/b.py:f")
    assert needs_code("C:/a.py:f")
    assert needs_code("module:Net")
    assert not needs_code("hf-hub:org/name")
    assert not needs_code("a/b.py")


def test_model_name_too_long_for_the_file_system_raises_a_model_error():
    for model in ("x" * 5000, "local-dir:" + "x" * 5000, "x" * 5000 + ".py:net", "\0"):
        with pytest.raises(ModelError):
            load_teacher(model)


def test_tensor_view_larger_than_its_file_is_rejected(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    state["fc.weight"] = torch.zeros(1).expand(10**10, state["fc.weight"].shape[1])
    torch.save(state, tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").stat().st_size < 10**7
    with pytest.raises(ModelError, match=r"fc\.weight has fewer values than its shape says"):
        load_teacher("test_resnet", weights=tmp_path / "weights.pth")


def test_weights_file_given_as_a_model_hints_at_the_weights_option(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"weights\.safetensors is a file, not a model") as caught:
        Source.parse(str(tmp_path / "weights.safetensors")).load()
    assert "--weights" in caught.value.hint


def test_onnx_file_given_as_a_model_hints_at_what_takes_one(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.onnx is a file, not a model") as caught:
        Source.parse(str(tmp_path / "model.onnx")).load()
    assert "`evaluate` and `predict`" in caught.value.hint
