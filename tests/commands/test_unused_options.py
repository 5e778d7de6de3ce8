"""Options without effect are refused, and a message says how an ambiguous name was understood."""

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
def test_option_without_effect_is_a_usage_error(intraq, checkpoint, words, named):
    ran = intraq(*(word.replace("CHECKPOINT", checkpoint) for word in words))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {named}")
    assert ran.err.splitlines()[1].startswith("hint: leave ")


@pytest.mark.parametrize("words", [("predict", "nowhere", "picture.png"), ("evaluate", "nowhere", "--data", "digits")])
def test_mistyped_checkpoint_with_a_model_option_is_an_unknown_model(intraq, words):
    ran = intraq(*words, "--model", "none.py:net")
    assert (ran.code, "there is no model or folder 'nowhere'" in ran.err) == (1, True)


def test_commands_succeed_without_the_refused_options(intraq, checkpoint):
    assert json.loads(intraq("inspect", checkpoint, "--json").out)["w_bits"] == 3
    assert intraq("predict", checkpoint, "picture.png").code == 0
    assert intraq("evaluate", "resnet20_digits", "--data", "digits", "--limit", "5").code == 0


def test_unneeded_model_option_is_ignored_with_a_message(intraq, checkpoint):
    ran = intraq("predict", checkpoint, "picture.png", "--model", "none.py:net")
    assert ran.code == 0
    assert f"--model is not used: {checkpoint} contains its own architecture" in " ".join(ran.err.split())


def _without_effect(printed):
    lines = [line.removeprefix("warning: ") for line in printed.splitlines() if " has no effect: " in line]
    return dict(line.split(" has no effect: ") for line in lines)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for shade in range(8):
        Image.new("L", (8, 8), 30 * shade).save(folder / f"{shade}.png")
    return folder


INSTANT = ("--recipe", "instant", "--set", "synthesis.steps=3", "--set", "tuning.lr=0.1", "--set", "tuning.holdout=0.5")
NO_TUNING, GIVEN = "tuning.steps is 0", "--images replaces the images that would be learned"


def test_settings_of_stages_that_do_not_run_cause_a_warning(intraq, small_digits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran = intraq("quantize", small_digits, *INSTANT, "--out", "made")
    no_images = "recipe instant makes no images"
    expected = {"synthesis.steps=3": no_images, "tuning.lr=0.1": NO_TUNING, "tuning.holdout=0.5": NO_TUNING}
    assert (ran.code, _without_effect(ran.err)) == (0, expected)


def test_settings_for_images_cause_a_warning_if_the_images_are_given(intraq, small_digits, pictures, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    more = ("--images", pictures, "--set", "synthesis.num_images=200", "--out", "made")
    ran = intraq("quantize", small_digits, *INSTANT, *more)
    assert (ran.code, _without_effect(ran.err)) == (0, {"synthesis.steps=3": GIVEN, "tuning.lr=0.1": NO_TUNING})


def test_settings_for_images_have_an_effect_if_sensitivities_are_measured(intraq, small_digits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    steps = ("--set", "synthesis.steps=3", "--set", "tuning.steps=0")
    ran = intraq(
        "quantize", small_digits, "--recipe", "instant", *steps, "--avg-bits", "2.5", "--w", "2,3", "--dry-run"
    )
    assert (ran.code, _without_effect(ran.err)) == (0, {})


def test_inspect_has_default_bits_and_placement(intraq):
    found = json.loads(intraq("inspect", "resnet20_digits", "--json").out)
    assert (found["w_bits"], found["a_bits"], found["act_placement"]) == (4, 4, "inputs")


def test_folder_takes_precedence_over_a_data_set_of_the_same_name(intraq, tmp_path):
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
