import json
import os
import pickle
import shutil
import urllib.error
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.models import hub_source
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import Teacher, capture_teacher, check_classifier
from tests.conftest import SmallNet


def load_teacher(model, override=None, **given):
    return Source.parse(model, override, **given).load()


INPUT = InputOverride((3, 8, 8), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A folder as timm's own save_for_hf writes it."""
    folder = tmp_path_factory.mktemp("timm") / "tiny"
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder, network


@pytest.mark.parametrize("spelling", ["{}", "local-dir:{}"])
def test_timm_folder_loads_with_identical_weights(timm_folder, spelling):
    folder, network = timm_folder
    teacher = load_teacher(spelling.format(folder))
    assert (teacher.architecture, teacher.name) == ("test_resnet", "tiny")
    assert teacher.spec.input_size == (3, 160, 160)
    assert not teacher.network.training
    assert all(torch.equal(v, teacher.network.state_dict()[k]) for k, v in network.state_dict().items())
    captured = capture_teacher(teacher)
    assert captured.num_classes == 7
    rebuilt = build_architecture(teacher.architecture, 7, teacher.model_args)
    rebuilt.load_state_dict(teacher.network.state_dict())


def test_digest_changes_with_the_weights(timm_folder):
    first, again = load_teacher(str(timm_folder[0])), load_teacher(str(timm_folder[0]))
    assert first.sha256 == again.sha256
    again.network.fc.bias.data[0] += 1e-6
    assert first.sha256 != replace(again).sha256


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


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_norm", "no batch norm"),
        ("nan", "NaN or infinite"),
        ("untracked", "without running statistics"),
        ("map_output", "not logits"),
    ],
)
def test_networks_that_cannot_be_quantized_are_rejected_on_capture(factory, function, says):
    with pytest.raises(ModelError, match=says):
        capture_teacher(load_teacher(f"{factory}:{function}", INPUT))


def test_input_options_that_do_not_fit_the_network_are_reported(factory):
    wrong = InputOverride((3, 9, 9), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ModelError, match="fails on an input of 3,9,9") as caught:
        capture_teacher(load_teacher(f"{factory}:fixed_size", wrong))
    assert "--input-size" in caught.value.hint
    with pytest.raises(UsageError, match="--input-size C,H,W has 3 channels"):
        load_teacher(f"{factory}:net", InputOverride((3, 8, 8), (0.5,), (0.25,) * 3))
    with pytest.raises(ModelError, match="3 means and 1 standard deviations"):
        load_teacher("resnet20_digits", InputOverride(None, (0.5,) * 3))


def bare_teacher(name, **options):
    spec = InputSpec((3, 160, 160), (0.5,) * 3, (0.5,) * 3)
    return Teacher(timm.create_model(name, **options).eval(), spec, name, name, name)


def test_vision_transformer_is_rejected_for_lack_of_batch_norm():
    with pytest.raises(ModelError, match="no batch norm"):
        capture_teacher(bare_teacher("test_vit"))


@pytest.mark.parametrize("look", [check_classifier, capture_teacher])
def test_network_without_a_classifier_is_rejected(look):
    with pytest.raises(ModelError, match="no classifier: it returns 256 features"):
        look(bare_teacher("test_efficientnet", num_classes=0))


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


def test_torchvision_download_messages_go_to_stderr(monkeypatch, capsys):
    from torchvision import models

    def get_model(name, weights):
        print("Downloading:", name)
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr(models, "get_model", get_model)
    with pytest.raises(ModelError, match="cannot download torchvision:resnet18: Name or service not known"):
        load_teacher("torchvision:resnet18")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Downloading: resnet18\n")


def test_hf_hub_id_is_stored_without_the_revision(tmp_path, monkeypatch):
    """The commit is stored separately, and a branch may have a name that is invalid in a repository id."""
    made = timm.create_model("test_resnet", num_classes=3)
    cfg = {"num_classes": 3, "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(hub_source, "hub_file", lambda repository, name: str(tmp_path / name))
    teacher = load_teacher("hf-hub:org/name@refs/pr/3")
    assert teacher.pretrained_cfg["hf_hub_id"] == "org/name"
    assert (teacher.source, teacher.name) == ("hf-hub:org/name@refs/pr/3", "name")


@pytest.mark.parametrize("kind", ["timm", "ours"])
def test_commit_of_a_hub_model_is_stored(tmp_path, monkeypatch, timm_folder, small_digits, kind):
    from huggingface_hub import constants

    commit = "a" * 40
    cached = tmp_path / "models--org--name"
    shutil.copytree(timm_folder[0] if kind == "timm" else small_digits, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    teacher = load_teacher("hf-hub:org/name")
    assert (teacher.name, teacher.source, teacher.revision) == ("name", "hf-hub:org/name", commit)


def test_missing_pytorchcv_gives_an_install_hint():
    try:
        import pytorchcv  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="pytorchcv is not installed") as caught:
            load_teacher("pytorchcv:mobilenet_w1")
        assert "pip install" in caught.value.hint
    else:
        pytest.skip("pytorchcv is installed")


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architecture": "nothing_at_all"}'])
def test_model_folder_with_an_invalid_config_is_rejected(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load_teacher(str(tmp_path))


def test_folder_of_an_intraq_architecture_loads_unless_its_weights_are_damaged(tmp_path):
    network = build_architecture("cifar_resnet", 5, {"blocks": 1})
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "cifar_resnet", "num_classes": 5, "model_args": {"blocks": 1}, "pretrained_cfg": cfg}
        )
    )
    assert capture_teacher(load_teacher(str(tmp_path))).num_classes == 5
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="is not a safetensors file, or is damaged"):
        load_teacher(str(tmp_path))


def test_torchvision_model_uses_the_preprocessing_of_its_presets(monkeypatch):
    """The real builder and presets, without the download."""
    from torchvision import models

    build = models.get_model
    monkeypatch.setattr(models, "get_model", lambda name, weights, **args: build(name, weights=None, **args))
    teacher = load_teacher("torchvision:mobilenet_v3_small")
    assert (teacher.spec.input_size, teacher.spec.crop_pct) == ((3, 224, 224), 224 / 256)
    assert teacher.spec.mean == (0.485, 0.456, 0.406)
    rebuilt = build_architecture(teacher.architecture, 1000, teacher.model_args)
    rebuilt.load_state_dict(teacher.network.state_dict())


def test_only_factories_and_modules_need_code():
    assert needs_code("a/b.py:f")
    assert needs_code("C:/a.py:f")
    assert needs_code("module:Net")
    assert not needs_code("hf-hub:org/name")
    assert not needs_code("a/b.py")


def test_folder_without_safetensors_is_rejected(timm_folder, tmp_path):
    """timm would unpickle pytorch_model.bin instead."""
    shutil.copytree(timm_folder[0], tmp_path / "copy")
    (tmp_path / "copy/model.safetensors").unlink()
    torch.save(timm_folder[1].state_dict(), tmp_path / "copy/pytorch_model.bin")
    with pytest.raises(ModelError, match=r"there is no file .*model\.safetensors"):
        load_teacher(str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_classes": 900_000, "model_args": {}}, "describes a network of"),
        ({"num_classes": 8, "model_args": {}}, "cannot load"),
        ({"num_classes": 8}, "num_classes is 8, but 7 in model_args"),
        ({"model_args": {"layers": [16384] * 4}}, "more than .* modules and parameters"),
        ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "may not contain 'checkpoint_path'"),
        ({"model_args": {"pretrained": True}}, "may not contain 'pretrained'"),
        ({"model_args": {"block": "BasicBlock"}}, "cannot load"),
        ({"architecture": "hf-hub:timm/resnet18.a1_in1k"}, "cannot load"),
        ({"architecture": "vit_giant_patch14_dinov2"}, "describes a network of|modules and parameters"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "too large|input_size"),
        ({"label_names": ["cat"]}, "1 label_names for 7 classes"),
    ],
)
def test_untrusted_float_config_is_validated(timm_folder, tmp_path, change, says):
    shutil.copytree(timm_folder[0], tmp_path / "copy")
    config = json.loads((tmp_path / "copy/config.json").read_text())
    for key, value in change.items():
        config[key] = config.get(key, {}) | value if key == "pretrained_cfg" else value
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says) as caught:
        load_teacher(str(tmp_path / "copy"))
    assert caught.value.message.isprintable()


def test_torchvision_download_is_unpickled_without_running_code(monkeypatch, tmp_path):
    from torch import hub
    from torchvision import models

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    name = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "checkpoints").mkdir()
    torch.save({"fc.weight": Evil()}, tmp_path / "checkpoints" / name)
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(pickle.UnpicklingError):
        load_teacher("torchvision:resnet18")
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


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


class Within(nn.Module):
    """A classifier that returns more than its logits, or these in another shape."""

    def __init__(self, way):
        super().__init__()
        self.network, self.way = SmallNet(), way

    def forward(self, x):
        return self.way(self.network(x))


@pytest.mark.parametrize(
    ("way", "hint"),
    [
        (lambda y: {"features": y[:, :1, None], "logits": y}, "network(x)['logits']"),
        (lambda y: {"out": y}, "network(x)['out']"),
        (lambda y: (y.mean(), y), "network(x)[1]"),
        (lambda y: SimpleNamespace(loss=None, logits=y), "network(x).logits"),
        (lambda y: y[..., None, None], "network(x).flatten(1)"),
        (lambda y: y[:, :1], "whose forward makes two classes of its logit x: torch.cat([-x, x], 1)"),
        (lambda y: y.mean(), "give a network that returns one logit per class"),
    ],
)
def test_hint_shows_how_to_extract_logits_from_other_outputs(way, hint):
    given = InputOverride((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ModelError, match=r"not logits \(batch, classes\)") as caught:
        check_classifier(Source.parse(Within(way), given).load())
    assert caught.value.hint.endswith(hint)
