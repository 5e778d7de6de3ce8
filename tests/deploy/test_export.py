"""The command and function ``export``: the file, its metadata, its check on pictures, and errors."""

import json
import math
import re
import shlex

import pytest
import torch
from PIL import Image

from intraq_cli import evaluate, export, load, predict, quantize
from intraq_cli.api import export as exporting
from intraq_cli.deploy.exported import open_exported
from intraq_cli.errors import ExportError
from intraq_cli.events import Warned
from tests.conftest import SPEC, TINY_SET, SmallNet, trained


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
