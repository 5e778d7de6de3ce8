"""Options that would do nothing are refused, and where a word means two things it is said which is taken."""

import json

import pytest
from PIL import Image

from tests.conftest import INPUT


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("picture.png")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, small_digits):
    from intraq_cli import quantize

    out = tmp_path_factory.mktemp("made") / "checkpoint"
    return quantize(small_digits, w=3, recipe="instant", out=out, device="cpu").path


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("predict", "CHECKPOINT", "picture.png", "--weights", "none.pth"), "--weights: "),
        (("predict", "resnet20_digits", "picture.png", "--model", "none.py:net"), "--model: "),
        (("evaluate", "resnet20_digits", "--data", "digits", "--model", "none.py:net"), "--model: "),
        (("evaluate", "resnet20_digits", "--data", "digits", "--split", "test"), "--split test: "),
        (("evaluate", "resnet20_digits", "--data", ".", "--data-dir", "."), "--data-dir .: "),
        (("evaluate", "a.onnx", "--data", "digits", "--revision", "main"), "--revision: "),
        (("inspect", "CHECKPOINT", "--w", "8"), "--w: "),
        (("inspect", "CHECKPOINT", "--w", "4", "--act-placement", "inputs"), "--w, --act-placement: "),
        (("inspect", "CHECKPOINT", *INPUT), "--input-size, --mean, --std: "),
        (("inspect", "CHECKPOINT", "--a", "8", "--first-last-bits", "8"), "--a, --first-last-bits: "),
    ],
)
def test_an_option_that_cannot_apply_is_wrong_usage(intraq, checkpoint, words, named):
    ran = intraq(*(word.replace("CHECKPOINT", checkpoint) for word in words))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {named}")
    assert ran.err.splitlines()[1].startswith("hint: leave ")


@pytest.mark.parametrize("words", [("predict", "nowhere", "picture.png"), ("evaluate", "nowhere", "--data", "digits")])
def test_a_mistyped_checkpoint_beside_its_code_is_an_unknown_model(intraq, words):
    ran = intraq(*words, "--model", "none.py:net")
    assert (ran.code, "there is no model or folder 'nowhere'" in ran.err) == (1, True)


def test_the_same_commands_without_them_are_right(intraq, checkpoint):
    assert json.loads(intraq("inspect", checkpoint, "--json").out)["w_bits"] == 3
    assert intraq("predict", checkpoint, "picture.png").code == 0
    assert intraq("evaluate", "resnet20_digits", "--data", "digits", "--limit", "5").code == 0


def test_code_for_a_checkpoint_that_needs_none_is_left_aside_and_that_is_said(intraq, checkpoint):
    ran = intraq("predict", checkpoint, "picture.png", "--model", "none.py:net")
    assert ran.code == 0
    assert "says itself how its network is built: --model is not used" in ran.err


def test_bits_of_inspect_have_a_default(intraq):
    found = json.loads(intraq("inspect", "resnet20_digits", "--json").out)
    assert (found["w_bits"], found["a_bits"], found["act_placement"]) == (4, 4, "inputs")


def test_a_folder_goes_before_a_data_set_of_its_name_and_that_is_said(intraq, tmp_path):
    for name in range(10):
        (tmp_path / f"digits/{name}").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / f"digits/{name}/black.png")
    ran = intraq("evaluate", "resnet20_digits", "--data", "digits", "--json")
    found = json.loads(ran.out)
    assert (found["data"], found["n"]) == ("./digits", 10)
    assert "digits is taken as the folder here, not as the data set of that name" in ran.err
    (tmp_path / "digits").rename(tmp_path / "cifar10")
    ran = intraq("evaluate", "resnet20_digits", "--data", "cifar10", "--json")
    assert json.loads(ran.out)["n"] == 10
    ran = intraq("evaluate", "resnet20_digits", "--data", "cifar10", "--data-dir", "cifar10")
    assert (ran.code, "no cifar10 in cifar10" in ran.err) == (1, True)
