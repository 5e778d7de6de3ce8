import json
import math

import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from intraq_cli import inspect, predict
from intraq_cli.errors import CheckpointError, IntraqError, ModelError
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.config import PretrainedCfg, check_config, spec_of_config

SOUND = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "model_args": {"in_chans": 3, "global_pool": "avg"},
    "label_names": ["cat", "dog", "eel"],
    "pretrained_cfg": {
        "input_size": [3, 8, 8],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 0.9,
        "first_conv": None,
    },
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, -(10**400)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def test_valid_config_is_accepted_unchanged():
    checked = check_config(SOUND, "here")
    assert (checked.architecture, checked.num_classes) == ("test_resnet", 3)
    assert checked.model_args == SOUND["model_args"]
    assert checked.label_names == ["cat", "dog", "eel"]
    assert checked.pretrained_cfg.first_conv is None
    assert spec_of_config(checked.pretrained_cfg, "here").input_size == (3, 8, 8)


def test_every_timm_config_is_valid():
    for name in timm.list_pretrained():
        cfg = json.loads(json.dumps(timm.get_pretrained_cfg(name).to_dict()))
        config = {"architecture": name.partition(".")[0], "num_classes": cfg["num_classes"], "pretrained_cfg": cfg}
        assert spec_of_config(check_config(config, name).pretrained_cfg, name).input_size[0] == 3


def test_flat_config_of_older_timm_versions_is_accepted():
    flat = {"architecture": "test_resnet", "num_classes": 3, **SOUND["pretrained_cfg"]}
    assert check_config(flat, "here").pretrained_cfg.input_size == [3, 8, 8]


@given(st.sampled_from(sorted(PretrainedCfg.model_fields)), VALUES)
@settings(deadline=None, max_examples=400)
def test_any_pretrained_cfg_value_is_accepted_or_raises_an_intraq_error(field, value):
    try:
        checked = check_config({**SOUND, "pretrained_cfg": {**SOUND["pretrained_cfg"], field: value}}, "here")
        spec = spec_of_config(checked.pretrained_cfg, "here")
    except IntraqError:
        pass
    else:
        assert len(spec.mean) == len(spec.std) == spec.input_size[0]
        assert all(map(math.isfinite, (*spec.mean, *spec.std, spec.crop_pct)))
        assert math.prod(spec.input_size) <= 2**24


@given(st.sampled_from(["architecture", "num_classes", "model_args", "label_names", "pretrained_cfg"]), VALUES)
@settings(deadline=None, max_examples=200)
def test_any_top_level_value_is_accepted_or_raises_a_checkpoint_error(field, value):
    try:
        checked = check_config({**SOUND, field: value}, "here", CheckpointError)
    except CheckpointError:
        return
    assert checked.num_classes is None or checked.label_names is None or len(checked.label_names) == checked.num_classes
    assert all(isinstance(name, str) for name in checked.model_args)


@pytest.mark.parametrize(
    "name",
    ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only",
     "out_indices", "feature_cls", "scriptable", "exportable", "no_jit", "weights", "progress", "file", "url", "device",
     "dtype", "model_name", "model_cfg", "pruned", "state_dict", "__class__", "a.b", "", "a b", "ä"],
)  # fmt: skip
def test_model_args_that_do_not_describe_the_shape_are_rejected(name):
    with pytest.raises(ModelError, match="model_args may not contain"):
        check_config({**SOUND, "model_args": {name: None}}, "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 10**9),
        ("num_classes", -1),
        ("num_classes", True),
        ("num_classes", "3"),
        ("num_classes", 4),  # three label names
        ("model_args", {"num_classes": 4}),
        ("model_args", {"width": 10**6}),
        ("model_args", {"layers": [10**9] * 4}),
        ("model_args", {"depth_multiplier": 1000.0}),
        ("model_args", {"layers": [[[[1]]]]}),
        ("model_args", {"block": {"a": 1}}),
        ("model_args", {"norm_layer": "os.system('true')"}),
        ("model_args", [1]),
        ("label_names", ["cat", "dog"]),
        ("label_names", [1, 2, 3]),
        ("label_names", {"zero": "cat"}),
        ("architecture", 3),
        ("architecture", ""),
        ("pretrained_cfg", 3),
        ("pretrained_cfg", {"hf_hub_id": "../../secret"}),
        ("pretrained_cfg", {"hf_hub_id": "org/name@../../../secret"}),
        ("pretrained_cfg", {"hf_hub_id": "-org/name"}),
        ("pretrained_cfg", {"license": "mit\nlicense_link: elsewhere"}),
    ],
)
def test_invalid_config_values_are_rejected(field, value):
    with pytest.raises(ModelError):
        check_config({**SOUND, field: value}, "here")


@pytest.mark.parametrize("count", [2, 4])
def test_label_names_must_match_num_classes_in_model_args(count):
    said = {"num_classes": None, "model_args": {"num_classes": 3}}
    assert check_config({**SOUND, **said}, "here").label_names == ["cat", "dog", "eel"]
    names = [f"class {k}" for k in range(count)]
    with pytest.raises(ModelError, match=f"{count} label_names for 3 classes"):
        check_config({**SOUND, **said, "label_names": names}, "here")


@pytest.mark.parametrize("verb", [inspect, lambda model: predict(model, "none.png", device="cpu")])
def test_label_names_must_match_the_default_number_of_classes(tmp_path, verb):
    """Without ``num_classes``, timm builds a network of 1000 classes."""
    config = {key: value for key, value in SOUND.items() if key != "num_classes"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="3 label_names for 1000 classes"):
        verb(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", [3, 10**6, 10**6]),
        ("input_size", [3, 0, 8]),
        ("input_size", [3.0, 8, 8]),
        ("input_size", [3, 8]),
        ("mean", [0.5]),
        ("mean", [math.nan] * 3),
        ("std", [0.0] * 3),
        ("std", [math.inf] * 3),
        ("crop_pct", 1e-9),
        ("interpolation", "sharpest"),
        ("interpolation", "random"),  # for training only
        ("crop_mode", ["center"]),
    ],
)
def test_invalid_input_settings_are_rejected(field, value):
    with pytest.raises(ModelError):
        spec_of_config({**SOUND["pretrained_cfg"], field: value}, "here")


@pytest.mark.parametrize(
    "architecture",
    ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:a/b", "local-dir:.", "timm/resnet18", "./resnet18", "a/b@main",
     "nn.Module", "os.system", "torchvision:../resnet18", "torchvision:load", "torchvision:quantization", ""],
)  # fmt: skip
def test_architecture_names_outside_the_registries_are_rejected(architecture):
    with pytest.raises(ModelError):
        build_architecture(architecture, 3, {})
