"""The Python API with values from Python: NumPy numbers, paths, devices, modules and gradient modes."""

import json
import threading
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import intraq_cli
from intraq_cli import evaluate, inspect, load, predict, quantize
from intraq_cli.errors import IntraqError, ModelError, RecipeError
from intraq_cli.events import Warned
from intraq_cli.graph.proof import relative_error
from tests.conftest import SPEC, SmallNet, trained

INSTANT = {"recipe": "instant", "device": "cpu"}


@pytest.fixture
def module():
    return trained(SmallNet(classes=3)).train().requires_grad_(True)


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def logits(network):
    with torch.no_grad():
        return network(torch.linspace(-2, 2, 4 * 192).view(4, 3, 8, 8))


def test_module_is_quantized_loaded_and_evaluated_without_being_changed(module, tmp_path, labelled):
    before = state(module)
    made = quantize(module, w=8, a=8, out=tmp_path / "out", **SPEC, **INSTANT)
    assert made.model == "module:SmallNet"
    # the caller's module is unchanged
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    loaded, expected = logits(load(made.path, model=module, device="cpu")), logits(module.eval())
    assert (loaded - expected).norm() < 0.1 * (expected - expected.mean(0)).norm()
    found = evaluate(made.path, labelled, model=module, device="cpu")
    assert (found.n, found.target) == (3, made.path)
    config = json.loads((tmp_path / "out/config.json").read_text())
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (config["architecture"], config["pretrained_cfg"]["input_size"]) == ("module:SmallNet", [3, 8, 8])
    assert (run["teacher"]["source"], run["command"].partition(",")[0]) == ("module:SmallNet", "quantize(network")


def test_checkpoint_of_a_module_cannot_be_loaded_without_that_module(module, tmp_path, labelled):
    quantize(module, out=tmp_path / "out", **SPEC, **INSTANT)
    for again in (lambda: load(tmp_path / "out"), lambda: evaluate(tmp_path / "out", labelled)):
        with pytest.raises(ModelError, match=r"contains no code|made from module:SmallNet"):
            again()
    with pytest.raises(ModelError, match="can only be built by its own code"):
        inspect("module:SmallNet", **SPEC)
    with pytest.raises(IntraqError, match=r"does not match|has no layer"):
        load(tmp_path / "out", model=SmallNet(channels=8, classes=3))


def test_module_is_named_after_its_class_even_if_wrapped_or_compiled(module, tmp_path, labelled, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quantize(module, **SPEC, **INSTANT).path == "SmallNet-w4a4"
    assert evaluate(module, Path(labelled), **SPEC, device="cpu").target == "module:SmallNet"
    assert inspect(module, **SPEC).num_classes == 3
    wrapped = nn.DataParallel(torch.compile(module))
    assert quantize(wrapped, out="wrapped", **SPEC, **INSTANT).model == "module:SmallNet"
    assert (tmp_path / "wrapped/model.safetensors").read_bytes() == (
        tmp_path / "SmallNet-w4a4/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_quantize_and_load_work_in_any_gradient_mode(mode, tmp_path):
    """The module is created in that mode too; both stages need gradients."""
    settings = ["synthesis.num_images=4", "synthesis.batch_size=4", "synthesis.steps=1", "tuning.steps=1"]
    with mode():
        module = trained(SmallNet(classes=3))
        made = quantize(module, out=tmp_path / "out", set=[*settings, "tuning.batch_size=2"], **SPEC, device="cpu")
        inside = load(made.path, model=module, device="cpu")
    assert torch.equal(logits(inside), logits(load(made.path, model=module, device="cpu")))


def test_numpy_numbers_tensors_paths_and_devices_are_valid_arguments(factory, tmp_path):
    given = {
        "w": np.int64(5),
        "a": 5.0,
        "seed": np.uint8(3),
        "first_last_bits": np.int32(5),  # these are all the layers
        "device": torch.device("cpu"),
        "recipe": "instant",
        "set": "tuning.temperature=2",
        "input_size": np.array([3, 8, 8]),
        "mean": torch.tensor([0.5, 0.5, 0.5]),
        "std": [np.float64(0.25)] * 3,
        "crop_pct": np.float32(0.875),
    }
    made = quantize(Path(f"{factory}:net"), out=tmp_path / "out", **given)
    assert (made.w_bits, made.a_bits, made.seed, made.device) == (5, 5, 3, "cpu")
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["recipe"]["tuning"]["temperature"] == 2
    assert json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875
    assert load(tmp_path / "out", model=Path(f"{factory}:net"), device=torch.device("cpu"))


def test_settings_may_be_a_dict(factory, tmp_path):
    settings = {"tuning.temperature": np.float32(2), "quantization.weight_range": "minmax", "tuning.lr_steps": (1, 2)}
    settings["quantization.equalization"] = False
    quantize(f"{factory}:net", out=tmp_path / "out", set=settings, **SPEC, **INSTANT)
    recipe = json.loads((tmp_path / "out/run.json").read_text())["recipe"]
    assert (recipe["tuning"]["temperature"], recipe["tuning"]["lr_steps"]) == (2.0, [1, 2])
    assert (recipe["quantization"]["weight_range"], recipe["quantization"]["equalization"]) == ("minmax", False)
    with pytest.raises(RecipeError, match=r"unknown recipe key tuning\.stepz"):
        quantize(f"{factory}:net", set={"tuning.stepz": 3}, **SPEC)


def test_public_functions_are_listed_by_dir_with_readable_signatures():
    assert {*intraq_cli.__all__} <= {*dir(intraq_cli)}
    assert not {"Any", "TYPE_CHECKING", "import_module"} & {*dir(intraq_cli)}
    for name in intraq_cli.__all__:
        assert "Validator" not in str(signature(getattr(intraq_cli, name))) if name != "__version__" else True
    shown = signature(quantize).parameters
    assert (str(shown["w"]), shown["model"].kind) == ("w: int | tuple[int, ...] | None = None", 1)


def test_lazy_or_uncopyable_modules_are_refused_with_a_reason():
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ModelError, match=r"lazy layers without a shape: 0\.weight"):
        quantize(lazy, **SPEC)
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(affine=False))
    with pytest.raises(ModelError, match=r"lazy layers without a shape: 1\.running_mean"):
        quantize(lazy, **SPEC)
    bound = SmallNet()
    bound.lock = threading.Lock()
    with pytest.raises(ModelError, match="module:SmallNet cannot be copied"):
        quantize(bound, **SPEC)


def test_random_numbers_and_untrained_batch_norms_cause_warnings(network):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fresh = network, nn.BatchNorm2d(3)

        def forward(self, x):
            return F.dropout(self.net(self.fresh(x)), 0.1, training=True)

    said = []
    arguments = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant", "dry_run": True}
    quantize(network, **arguments, report=said.append)
    assert not [event for event in said if isinstance(event, Warned)]
    quantize(Odd().eval(), **arguments, report=said.append)
    texts = [event.message for event in said if isinstance(event, Warned)]
    assert any("draws random numbers" in text for text in texts)
    assert any("1 of 4 batch norms have the statistics of an untrained network" in text for text in texts)


@pytest.mark.parametrize(
    ("end", "name"), [(nn.Softmax(1), "softmax"), (nn.Sigmoid(), "sigmoid"), (nn.LogSoftmax(1), "")]
)
def test_network_that_returns_probabilities_causes_a_warning(network, end, name):
    said = []
    arguments = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant", "dry_run": True}
    quantize(nn.Sequential(network, end).eval(), **arguments, report=said.append)
    texts = [event.message for event in said if isinstance(event, Warned) and "probabilities" in event.message]
    assert len(texts) == bool(name)
    assert all(f"ends in a {name}" in text for text in texts)


class Written(SmallNet):
    """A network as people write it; ``end`` turns features ``(B, 6, H, W)`` into the classifier's input."""

    def __init__(self, end):
        super().__init__(channels=6)
        self.end = end

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.end(self.act(self.bn2(self.conv2(x)))))


WAYS = {
    "view": lambda x: x.view(len(x), 6, -1).mean(2),
    "squeeze": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
    "no gradient": torch.no_grad()(lambda x: x.mean((2, 3))),
    "dropout that is always on": lambda x: F.dropout(x.mean((2, 3)), 1e-6),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("placement", ["inputs", "integer"])
def test_networks_in_common_coding_styles_are_quantized_correctly(way, placement, tmp_path):
    network = trained(Written(WAYS[way]))
    made = quantize(network, w=8, a=8, act_placement=placement, out=tmp_path / "out", **SPEC, **INSTANT)
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert relative_error(network(x), load(made.path, model=network)(x)) < 0.1


def test_network_using_squeeze_gives_the_same_results_one_image_at_a_time(tmp_path, labelled):
    network = trained(Written(WAYS["squeeze"]))
    network.fc = nn.Linear(6, 3).requires_grad_(False)
    made = quantize(network, out=tmp_path / "out", **SPEC, **INSTANT)
    options = {"model": network, "device": "cpu", "cache": False}
    one, all_at_once = (evaluate(made.path, labelled, batch_size=size, **options) for size in (1, 3))
    assert (one.n, one.float_top1, one.top1) == (3, all_at_once.float_top1, all_at_once.top1)
    picture = next(Path(labelled).rglob("*.png"))
    assert len(predict(network, picture, device="cpu", **SPEC)[0].classes) == 3


def test_results_do_not_depend_on_torchs_default_dtype_and_device(module, tmp_path, labelled, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (8, 8), "white")

    def made(name):
        """Weights, pixels, logits and accuracy."""
        quantize(module, out=name, **SPEC, **INSTANT)
        network = load(name, model=module, device="cpu")
        found = evaluate(name, data=labelled, model=module, device="cpu")
        with torch.device("cpu"):
            pixels, logits = network.transform(picture), network(torch.ones(2, 3, 8, 8, dtype=torch.float32))
        return Path(name, "model.safetensors").read_bytes(), pixels, logits, (found.n, found.top1, found.agreement)

    wanted = made("usual")
    assert wanted[1].dtype == torch.float32
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")
        try:
            weights, pixels, logits, accuracy = made(str(dtype))
            assert (torch.get_default_dtype(), torch.get_default_device().type) == (dtype, "meta")
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        assert (weights, accuracy) == (wanted[0], wanted[3])
        assert torch.equal(pixels, wanted[1])
        assert torch.equal(logits, wanted[2])
        assert pixels.dtype == torch.float32


def test_global_random_state_of_torch_is_left_unchanged(small_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    quantize(small_digits, out="out", recipe="instant", device="cpu")
    evaluate("out", data="digits", limit=4, device="cpu")
    assert torch.equal(torch.rand(3), wanted)
