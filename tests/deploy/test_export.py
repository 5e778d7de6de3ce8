"""The exported file computes in onnxruntime what the checkpoint computes in torch."""

import functools
import json
import math
import platform
import re
import shlex

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from intraq_cli import evaluate, export, load, predict, quantize
from intraq_cli.api import export as exporting
from intraq_cli.deploy.exported import open_exported
from intraq_cli.deploy.lower import float_twin, lower
from intraq_cli.deploy.onnx_file import onnx_model
from intraq_cli.deploy.session import OnnxNetwork, integer_layers, open_session
from intraq_cli.errors import ExportError
from intraq_cli.events import Warned
from intraq_cli.quantization.integer_arithmetic import compute_on_integers
from tests.conftest import INPUT, SPEC, TINY_SET, SmallNet, frozen_student, trained

SHAPE = (3, 16, 16)
KERNELS_OF_X86 = platform.machine() in ("x86_64", "AMD64")
"""Kernels for other processors may round differently between two codes, for instance in sums."""


class Everything(nn.Module):
    """Everything that classifiers do between their convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, 2, groups=8, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.left, self.right, self.join = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(16, 8, 1, bias=False)
        self.tokens, self.fc = nn.Linear(8, 12), nn.Linear(12, 5)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (8, 8, 8, 12))

    def forward(self, x):
        x = F.silu(self.norms[0](self.stem(F.pad(x, (0, 1, 0, 1)))))
        x = x + self.twice(F.leaky_relu(self.twice(x), 0.1))
        x = F.relu6(self.norms[1](self.depthwise(F.pad(x, (0, 1, 0, 1)))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        a, b = x.chunk(2, 1)
        x = torch.cat([self.left(a), F.hardswish(self.right(b)), F.max_pool2d(x, 3, 1, 1)], 1)
        x = F.hardtanh(self.norms[2](self.join(x)), -0.5, 2.0)
        x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 12, 4, 4)
        return self.fc(F.adaptive_avg_pool2d(self.norms[3](x), 1).flatten(1))


frozen = functools.partial(frozen_student, shape=SHAPE)


@functools.cache
def frozen_everything(bits=4):
    """Built only once, as no test changes its graph."""
    return frozen(trained(Everything(), SHAPE), bits, bits)


def model_of(student, storage="int8", shape=SHAPE):
    return onnx_model(lower(student), shape, storage, {"version": "0"})


def run(model, x):
    return OnnxNetwork(open_session(model.SerializeToString(), 1))(x)


def share_of_equal(wanted, got):
    """Share of the images whose logits are identical."""
    return float((wanted == got).all(1).float().mean())


@pytest.mark.parametrize(("w", "a"), [(2, 2), (4, 4), (8, 8), (7, 3)])
def test_exported_logits_equal_the_checkpoints_for_any_batch_size(w, a, random):
    student = frozen(trained(SmallNet(), (3, 8, 8)), w, a, shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    assert integer_layers(model) == (["conv1", "conv2", "conv3", "fc"], [])
    compute_on_integers(student)
    same = total = 0
    for batch in (1, 5, 64):
        x = torch.randn(batch, 3, 8, 8, generator=random)
        wanted, got = student(x), run(model, x)
        close = (wanted - got).abs().max(1).values <= (0 if KERNELS_OF_X86 else 1e-4) * wanted.abs().max()
        same, total = same + int(close.sum()), total + batch
    assert same >= (1 if KERNELS_OF_X86 else 0.95) * total


# 8 bits add little: the codes are those of SmallNet above, and the operations those at 4 bits
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_all_layers_run_in_integers_among_common_operations(bits, random):
    student = frozen_everything(bits)
    model = model_of(student)
    integer, left = integer_layers(model)
    assert not left
    assert set(integer) == set(student.plan.weights)
    x = torch.randn(64, *SHAPE, generator=random)
    wanted, got = student.graph(x), run(model, x)  # simulated in floats
    spread = wanted.std()
    assert ((wanted - got).abs().max(1).values < 0.02 * spread).float().mean() > 0.7
    assert (wanted - got).abs().mean() < 0.02 * spread
    compute_on_integers(student)
    assert share_of_equal(student(x), got) >= (1 if KERNELS_OF_X86 else 0.7)


class Dense(nn.Module):
    """Batch norms that cannot be folded, in front of convolutions, and averages of every kind."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.more = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.last, self.flat, self.fc = nn.BatchNorm2d(16), nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2) + F.adaptive_max_pool2d(x[:, :1], 8)
        x = F.avg_pool2d(torch.cat([x, self.more(F.relu(self.norm(x)))], 1), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(x, 2, divisor_override=3)
        return self.fc(self.flat(F.relu(self.last(x)).mean((2, 3))))


def test_unfolded_batch_norms_and_average_pooling_export_exactly(random):
    student = frozen(trained(Dense(), SHAPE), 8, 8)
    compute_on_integers(student)
    x = torch.randn(64, *SHAPE, generator=random)
    assert share_of_equal(student(x), run(model_of(student), x)) >= (1 if KERNELS_OF_X86 else 0.7)


class PooledFirst(nn.Module):
    """Activation functions after pooling and other operations, so that values move from one grid to another."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.stem(x), 3, 1, 1))
        x = F.relu6(self.blocks[0](x).flip(1))
        x = F.relu(F.max_pool2d(self.blocks[1](x), 2))
        x = x + self.blocks[2](F.relu(x))
        return self.fc(F.relu(x).mean((2, 3)))


def test_values_requantized_to_another_grid_export_exactly(random):
    student = frozen(trained(PooledFirst(), SHAPE), 8, 8)
    model = model_of(student)
    assert integer_layers(model) == (["stem", "blocks.0", "blocks.1", "blocks.2", "fc"], [])
    compute_on_integers(student)
    x = torch.randn(64, *SHAPE, generator=random)
    assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


class TokensFirst(nn.Module):
    """Linear layers that read (tokens, images, channels), and a buffer with the name of an operation's output."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.mix, self.fc = (
            nn.Conv2d(3, 8, 4, 4),
            nn.BatchNorm2d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 5),
        )
        self.register_buffer("mean", torch.tensor(0.1))

    def forward(self, x):
        tokens = F.relu(self.norm(self.conv(x - self.mean))).flatten(2).permute(2, 0, 1)
        return self.fc(F.relu(self.mix(tokens)).mean(0))


def test_images_are_not_mixed_if_tokens_are_the_first_dimension(random):
    student = frozen(trained(TokensFirst(), SHAPE), 8, 8)
    model = model_of(student)
    assert integer_layers(model) == (["conv", "mix", "fc"], [])
    compute_on_integers(student)
    for batch in (1, 5, 64):
        x = torch.randn(batch, *SHAPE, generator=random)
        assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


class Centred(nn.Linear):
    """Its bias is computed from a parameter."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias - self.bias.mean())


class Scaled(nn.Linear):
    """Its output goes through a scale, and before it perhaps through a ReLU."""

    def __init__(self, inputs, outputs, rectified):
        super().__init__(inputs, outputs)
        self.rectified = rectified

    def forward(self, x):
        x = super().forward(x)
        return (x.relu() if self.rectified else x) * 3


HEADS = {
    "pooled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()),
    "all places": lambda: nn.Sequential(nn.Conv2d(8, 5, 4), nn.Flatten()),
    "centred": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Centred(8, 5)),
    "scaled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(8, 5, False)),
    "rectified": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(8, 5, True)),
}


@pytest.mark.parametrize("head", HEADS)
def test_other_forms_of_classifiers_run_in_integers(head, random):
    body = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    student = frozen(trained(nn.Sequential(body, HEADS[head]()), SHAPE), 8, 8)
    model = model_of(student)
    integer, left = integer_layers(model)
    assert (len(integer), left) == (2, [])
    compute_on_integers(student)
    for batch in (1, 5, 64):
        x = torch.randn(batch, *SHAPE, generator=random)
        assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


def test_error_names_the_operation_that_onnx_lacks(random):
    class Odd(SmallNet):
        def forward(self, x):
            return super().forward(torch.special.i0(x))

    with pytest.raises(ExportError, match=r"^ONNX has no operator for prims\.bessel_i0, which this network calls$"):
        model_of(frozen(trained(Odd(), (3, 8, 8)), 8, 8, shape=(3, 8, 8)), shape=(3, 8, 8))


def test_operation_that_only_fails_as_it_runs_is_refused_in_one_line(random, capfd):
    class Smaller(nn.Module):
        def forward(self, x):
            return F.interpolate(x, size=7, mode="bicubic")  # onnxruntime has it for channels first only

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Smaller(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(200, 5),
    )  # fmt: skip
    model = model_of(frozen(trained(network, SHAPE), 8, 8))
    with pytest.raises(ExportError, match=r"^onnxruntime cannot run the network: .*Resize.*"):
        run(model, torch.randn(2, *SHAPE, generator=random))
    assert capfd.readouterr() == ("", "")


def test_float_twin_is_exported_without_quantizers(random):
    student = frozen_everything()
    x = torch.randn(8, *SHAPE, generator=random)
    twin = onnx_model(float_twin(student), SHAPE, "int8", {})
    assert "QuantizeLinear" not in {node.op_type for node in twin.graph.node}
    assert torch.allclose(run(twin, x), float_twin(student)(x), atol=1e-4)


def test_int4_storage_halves_the_weights_without_changing_logits(random):
    student = frozen(trained(SmallNet(64), (3, 8, 8)), 4, 4, shape=(3, 8, 8))
    wide, narrow = (model_of(student, storage, (3, 8, 8)) for storage in ("int8", "int4"))
    x = torch.randn(16, 3, 8, 8, generator=random)
    assert torch.equal(run(wide, x), run(narrow, x))
    assert integer_layers(narrow) == integer_layers(wide)
    weights = sum(tensor.numel() for tensor in (w() for w in student.weights.values()))
    saved = len(wide.SerializeToString()) - len(narrow.SerializeToString())
    assert 0.45 * weights - 2500 < saved < 0.5 * weights


def test_other_placements_export_float_layers_with_a_reason(random):
    student = frozen(trained(SmallNet(), (3, 8, 8)), 8, 8, "inputs", shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    _integer, left = integer_layers(model)
    assert {layer["name"] for layer in left} >= {"conv1", "conv2", "conv3"}
    assert all("its own zero-point" in layer["reason"] or "not quantized" in layer["reason"] for layer in left)
    x = torch.randn(16, 3, 8, 8, generator=random)
    wanted, got = student(x), run(model, x)
    assert torch.allclose(wanted, got, atol=1e-3 * wanted.std().item())


def test_clamping_activations_are_lowered_to_clipping_of_codes():
    """Even if a hardtanh's bounds are not on the grid: rounding keeps the order, so clipping may come after it."""
    graph = lower(frozen_everything())
    targets = {str(node.target) for node in graph.graph.nodes}
    assert not any(name in target for target in targets for name in ("relu6", "hardtanh", "aten.relu."))


@pytest.mark.parametrize("clamps", [((0.3, 2), (-1, 1.2)), ((-1, 0.25), (0.5, 3)), ((0, math.inf), (-math.inf, 0.7))])
def test_consecutive_clamps_are_exported_in_the_right_order(clamps, random):
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x):
            x = self.norm(self.conv(x))
            for low, high in clamps:
                x = x.clamp(low if math.isfinite(low) else None, high if math.isfinite(high) else None)
            return self.fc(x.mean((2, 3)))

    student = frozen(trained(Clamped(), (3, 8, 8)), 8, 8, shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    assert integer_layers(model)[1] == []
    x = torch.randn(16, 3, 8, 8, generator=random)
    wanted, got = student(x), run(model, x)
    assert ((wanted - got).abs().max(1).values <= 1e-3 * wanted.abs().max()).float().mean() >= 0.9


class NearZero(nn.Module):
    """Tiny constants that prevent a division of zero by zero, and a factor that is nearly one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)) - 900)  # all zeros
        x = x / ((x * x).sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        x = x / (x.abs().sum((1, 2, 3), keepdim=True) - -1e-8)
        x = x.mean((2, 3)) * 1.000005
        return self.fc(x) + x


def test_tiny_constants_against_division_by_zero_survive_the_export():
    network = trained(NearZero(), (3, 8, 8))
    got = run(model_of(frozen(network, 8, 8, "inputs", shape=(3, 8, 8)), shape=(3, 8, 8)), torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(got, network.fc.bias.expand(4, 4), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint in placement ``integer``, and the factory of its network."""
    from tests.conftest import FACTORY

    folder = tmp_path_factory.mktemp("made")
    (folder / "nets.py").write_text(FACTORY)
    model = f"{folder / 'nets.py'}:net"
    quantize(model, w=4, a=4, out=folder / "out", set=TINY_SET, act_placement="integer", device="cpu", **SPEC)
    return folder / "out", model


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """The bytes of the file that ``made`` is exported to."""
    file = tmp_path_factory.mktemp("exported") / "a.onnx"
    export(made[0], out=file, model=made[1])
    return file.read_bytes()


def test_export_check_skips_unreadable_pictures_with_a_warning(made, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "IMAGES", 2)
    folder, model = made
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(5):
        Image.new("RGB", (8, 8), (50 * k, 40, 200)).save(pictures / f"{k}.png")
    for k in (0, 1):  # as many as the check needs
        (pictures / f"{k}.png").write_bytes(b"no picture")
    events = []
    result = export(folder, out=tmp_path / "a.onnx", model=model, images=pictures, report=events.append)
    assert result.images == 2
    told = [event.message for event in events if isinstance(event, Warned)]
    assert any("2 of 4 pictures were left out" in text and "1.png" in text for text in told)


def test_export_fails_if_the_logits_difference_is_nan(made, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_compare", lambda *_: (1.0, math.nan))
    with pytest.raises(ExportError, match="are NaN or infinite"):
        export(made[0], out=tmp_path / "a.onnx", model=made[1])
    assert not (tmp_path / "a.onnx").exists()


def test_export_writes_a_verified_file_with_metadata(made, tmp_path):
    folder, model = made
    result = export(folder, out=tmp_path / "a.onnx", model=model, storage="int4")
    assert (result.layers_integer, result.layers_float) == (["conv", "fc"], [])
    assert result.first_choices_equal
    assert result.logits_difference < 1e-3
    assert result.images == 32  # the synthetic ones, read back from the contact sheet
    assert result.bytes == (tmp_path / "a.onnx").stat().st_size
    assert min(result.ms_float, result.ms_quantized) > 0
    import onnx

    file = onnx.load(tmp_path / "a.onnx")
    assert (file.ir_version, file.opset_import[0].version) == (10, 21)
    about = json.loads({p.key: p.value for p in file.metadata_props}["intraq"])
    assert about["num_classes"] == 3
    assert about["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert str(folder.parent) not in json.dumps(about)  # no local paths


def test_evaluate_and_predict_accept_an_exported_file(made, exported, tmp_path, labelled):
    folder, model = made
    (tmp_path / "a.onnx").write_bytes(exported)
    file, own = (evaluate(target, labelled, model=model) for target in (tmp_path / "a.onnx", folder))
    assert (file.top1, file.float_top1, file.agreement) == (own.top1, own.float_top1, own.agreement)
    ours, theirs = predict(folder, [labelled], model=model), predict(str(tmp_path / "a.onnx"), [labelled])
    assert [r.classes for r in ours] == [r.classes for r in theirs]
    assert all(math.isclose(sum(r.probabilities), 100, abs_tol=1e-3) for r in ours)  # three classes in all
    logits = load(folder, model=model)(torch.full((1, 3, 8, 8), -2.0))  # the black picture
    assert ours[0].classes == logits[0].argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pretrained_cfg": 5}, "metadata of {} are damaged: pretrained_cfg: "),
        ({"pretrained_cfg": True}, "metadata of {} are damaged: pretrained_cfg: "),
        ({"pretrained_cfg": None}, "metadata of {} are damaged: pretrained_cfg: "),
        ({"pretrained_cfg": {"mean": [0.5]}}, "pretrained_cfg lacks input_size"),
        ({"num_classes": 2, "label_names": ["a", "b"]}, "{} does not return the 2 logits that its metadata state"),
        ({"num_classes": 0}, "metadata of {} are damaged: num_classes: "),
        ({"num_classes": True}, "metadata of {} are damaged: num_classes: "),
        ({"label_names": ["a", "b"]}, "metadata of {} are damaged: Value error, 2 label_names for 3 classes"),
        ({"label_names": [1, 2, 3]}, "metadata of {} are damaged: label_names.0: "),
        ({"input_size": [3, 16, 16]}, "{} fails on an input of 3,16,16: "),
        ({"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5]}, "{} fails on an input of 1,8,8: "),
        ({"teacher": 5}, "metadata of {} are damaged: teacher: "),
        ({"teacher": {"source": 5}}, "metadata of {} are damaged: teacher.source: "),
        ({"teacher": {"source": "resnet18", "weights": 5}}, "metadata of {} are damaged: teacher.weights: "),
        ({"teacher": {"source": "hf-hub:a/b", "revision": 7}}, "metadata of {} are damaged: teacher.revision: "),
    ],
)
def test_damaged_metadata_of_an_onnx_file_are_refused(exported, tmp_path, change, says):
    import onnx

    file = tmp_path / "a.onnx"
    model = onnx.load_from_string(exported)
    about = json.loads({p.key: p.value for p in model.metadata_props}["intraq"])
    cfg = {**about["pretrained_cfg"], **{key: change[key] for key in ("input_size", "mean", "std") if key in change}}
    onnx.helper.set_model_props(model, {"intraq": json.dumps({**about, "pretrained_cfg": cfg, **change})})
    onnx.save(model, file)
    with pytest.raises(ExportError) as caught:
        open_exported(file)
    assert says.format(file) in caught.value.message
    assert "\n" not in caught.value.message


def test_suggested_evaluate_command_runs_as_printed(made, labelled, tmp_path, intraq):
    folder, model = made
    ran = intraq("export", folder, "--model", model, "--out", tmp_path / "a.onnx")
    (following,) = re.findall(r"intraq (evaluate .*) FOLDER", ran.err)
    again = intraq(*shlex.split(following), labelled)
    assert again.code == 0, again.err


def test_bad_input_and_missing_libraries_are_explained(made, tmp_path, intraq, monkeypatch):
    folder, model = made
    wide = quantize(model, w=5, recipe="instant", out=tmp_path / "wide", device="cpu", **SPEC).path
    for arguments, code, text in (
        ((tmp_path / "none",), 2, "is not a folder"),
        ((folder, "--model", model, "--storage", "int3"), 2, "int3"),
        ((folder, "--model", model, "--out", tmp_path / "no" / "where.onnx"), 1, "no folder"),
        ((folder,), 1, "contains no code"),
        ((wide, "--model", model, "--storage", "int4"), 2, "no weight has 4 bits or fewer"),
    ):
        ran = intraq("export", *arguments)
        assert (ran.code, text in ran.err.replace("\n", " ")) == (code, True), ran.err
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    assert intraq("evaluate", tmp_path / "b.onnx", "--data", tmp_path, "--model", model).code == 1
    assert intraq("evaluate", tmp_path / "c.onnx", "--data", tmp_path, "--model", model).code == 1

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("intraq_cli.deploy.libraries.import_module", missing)
    ran = intraq("export", folder, "--model", model, "--out", tmp_path / "d.onnx")
    assert ran.code == 1
    assert "pip install onnx onnxscript onnxruntime" in ran.err
    assert not (tmp_path / "d.onnx").exists()


def test_export_with_a_float_layer_requires_allow_float(tmp_path, factory, intraq, monkeypatch):
    """With a runtime that has no integer kernel for one of the layers."""
    model = f"{factory}:net"
    made = intraq("quantize", model, *INPUT, "--w", 8, "--a", 8, "--recipe", "instant", "--act-placement", "integer",
                  "--out", tmp_path / "out")  # fmt: skip
    assert made.code == 0, made.err
    left = {"name": "conv", "reason": "the runtime has no integer kernel for it"}
    monkeypatch.setattr("intraq_cli.api.export.integer_layers", lambda model: (["fc"], [left]))
    ran = intraq("export", tmp_path / "out", "--model", model)
    assert ran.code == 1
    assert "1 layer stays float: conv" in ran.err
    assert "--allow-float" in ran.err
    assert not (tmp_path / "out" / "model.onnx").exists()
    allowed = intraq("export", tmp_path / "out", "--model", model, "--allow-float", "--json")
    assert json.loads(allowed.out)["layers_float"] == [left]


@pytest.mark.slow
def test_products_of_activations_are_listed_but_do_not_prevent_the_export(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.qkv = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 24)
            self.up, self.fc = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 4)

        def forward(self, x):
            x = self.up(F.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.fc(torch.einsum("bqk,bkd->bd", (q @ k.transpose(1, 2)).softmax(-1), v))

    network = trained(Attention())
    given = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant"}
    quantize(network, w=8, a=8, out=tmp_path / "out", act_placement="integer", **given)
    result = export(tmp_path / "out", model=network)
    assert set(result.layers_integer) >= {"conv", "qkv"}
    reasons = [layer["reason"] for layer in result.layers_float]
    assert reasons.count("a product of activations") == 2
    assert {"name": "up", "reason": "its weight is not quantized"} in result.layers_float
    assert not {layer["name"] for layer in result.layers_float} & {"conv", "qkv", "fc"}


def test_checkpoint_is_complete_even_if_its_export_fails(tmp_path):
    class Odd(SmallNet):
        def forward(self, x):
            return super().forward(torch.special.i0(x))

    network, told = trained(Odd(), (3, 8, 8)), []
    given = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant", "device": "cpu"}
    with pytest.raises(ExportError, match="ONNX has no operator"):
        quantize(network, out=tmp_path / "out", export="onnx", report=told.append, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert load(tmp_path / "out", model=network)(torch.randn(2, 3, 8, 8)).isfinite().all()
    said = [event.message for event in told if isinstance(event, Warned)]
    path = tmp_path / "out"
    assert said[-1:] == [f"the checkpoint {path} is complete, but was not exported; to export it: intraq export {path}"]


def test_suggested_export_of_a_checkpoint_without_code_names_its_factory(factory, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ExportError("refused")

    monkeypatch.setattr("intraq_cli.api.export.export", refuse)
    given, told = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant"}, []
    path, model = tmp_path / "out", f"{factory}:net"
    with pytest.raises(ExportError, match="refused"):
        quantize(model, out=path, export="onnx", device="cpu", report=told.append, **given)
    said = [event.message for event in told if isinstance(event, Warned)]
    assert said[-1].endswith(f" to export it: intraq export {path} --model {model}")
