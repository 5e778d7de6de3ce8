"""Errors on bad input: their line, hint and exit code."""

import json

import pytest

from tests.conftest import INPUT

pytestmark = pytest.mark.usefixtures("in_a_folder")


@pytest.mark.parametrize(
    ("args", "after"),
    [(("evaluate", "x", "--data", ""), "--data"), (("predict", "x", ""), "x"), (("zoo", "--a="), "--a=")],
)
def test_empty_argument_is_an_error_and_not_the_working_folder(intraq, args, after):
    made = intraq(*args)
    assert (made.code, made.out) == (2, "")
    assert made.err.startswith(f"error: the value after {after} is empty\n")


NONSENSE = [
    (("quantize", "no_such_model"), 1, "model"),
    (("quantize", "resnet20_digits", "--w", "1"), 2, "usage"),
    (("quantize", "resnet20_digits", "--a", "9"), 2, "usage"),
    (("quantize", "resnet20_digits", "--first-last-bits", "16"), 2, "usage"),
    (("quantize", "resnet20_digits", "--act-placement", "outputs"), 2, "usage"),
    (("quantize", "resnet20_digits", "--recipe", "none"), 1, "recipe"),
    (("quantize", "resnet20_digits", "--set", "tuning.steps=no"), 1, "recipe"),
    (("quantize", "resnet20_digits", "--device", "tpu"), 2, "usage"),
    (("quantize", "resnet20_digits", "--device", "cuda:99"), 1, "device"),
    (("quantize", "resnet20_digits", "--images", "none.safetensors"), 1, "data"),
    (("quantize", "resnet20_digits", "--out", "no/such/folder"), 1, "output"),
    (("quantize", "resnet20_digits", "--input-size", "3x8x8"), 2, "usage"),
    (("quantize", "resnet20_digits", "--input-size", "3,8,8"), 1, "model"),
    (("quantize", "resnet20_digits", "--mean", "123.68"), 2, "usage"),
    (("quantize", "resnet20_digits", "--crop-pct", "3"), 2, "usage"),
    (("quantize", "resnet20_digits", "--interpolation", "sharpest"), 2, "usage"),
    (("quantize", "resnet20_digits", "--batch-size", "0"), 2, "usage"),
    (("quantize", "FACTORY:no_norm", *INPUT), 1, "model"),
    (("quantize", "FACTORY:fixed_size", "--input-size", "3,9,9", *INPUT[2:]), 1, "model"),
    (("quantize",), 2, "usage"),
    (("synthesize", "resnet20_digits", "-n", "0"), 2, "usage"),
    (("evaluate", "resnet20_digits", "--data", "nowhere"), 1, "data"),
    (("evaluate", "resnet20_digits"), 2, "usage"),
    (("evaluate", "resnet20_digits", "--data", "FOLDER"), 1, "data"),
    (("evaluate", "FOLDER", "--data", "digits"), 1, "model"),
    (("zoo", "show", "defualt"), 1, "recipe"),
    (("nonsense",), 2, "usage"),
]


@pytest.mark.parametrize(("args", "code", "kind"), NONSENSE, ids=[" ".join(a) for a, _, _ in NONSENSE])
def test_bad_input_gives_an_error_line_a_hint_and_an_exit_code(intraq, tmp_path, factory, args, code, kind):
    (tmp_path / "data/77").mkdir(parents=True)
    args = [a.replace("FACTORY", factory).replace("FOLDER", "data") for a in args]
    before = sorted(tmp_path.rglob("*"))
    made = intraq(*args)
    assert made.code == code
    assert made.out == ""
    assert "Traceback" not in made.err
    if code == 1:
        assert [line.split(":")[0] for line in made.err.strip().splitlines()] == ["error", "hint"]
    made = intraq(*args, "--json")
    assert made.code == code
    error = json.loads(made.out)["error"]
    assert error["code"] == kind
    assert error["message"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("--limit", "0"), "'--limit': must be at least 1", "see --help"),
        (("--limit", "few"), "'--limit': must be a whole number", "see --help"),
        (("--crop-pct", "3"), "'--crop-pct': must be at most 2", "see --help"),
        (("--interpolation", "x"), "'--interpolation': 'x' is not one of 'nearest', ", "see --help"),
        (("--mean", "abc"), "--mean abc: must be numbers separated by commas", "e.g. --mean 0.485,0.456,0.406"),
        (
            ("--input-size", "1,8"),
            "--input-size 1,8: must be 3 whole numbers separated by commas",
            "e.g. --input-size 3,224,224",
        ),
    ],
)
def test_error_for_an_invalid_option_value_says_what_is_allowed(intraq, args, message, hint):
    made = intraq("evaluate", "x", "--data", "digits", *args, "--json")
    error = json.loads(made.out)["error"]
    assert (made.code, error["hint"]) == (2, hint)
    assert message in error["message"]
    assert "Value error" not in error["message"]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("quantize", "x", "--seeds", "1,a"), "e.g. --seeds 0,1,2"),
        (("images", "x", "--classes", "y"), "e.g. --classes 0,3"),
        (("sensitivity", "x", "--widths", "y"), "e.g. --widths 2,4,8"),
    ],
)
def test_hint_for_an_invalid_list_gives_an_example_of_the_same_option(intraq, args, hint):
    made = intraq(*args, "--json")
    assert (made.code, json.loads(made.out)["error"]["hint"]) == (2, hint)


def test_recipe_without_images_refuses_tuning_and_synthesis(intraq):
    made = intraq("quantize", "resnet20_digits", "--recipe", "instant", "--set", "tuning.steps=5")
    assert made.code == 1
    assert "tuning.steps=0" in made.err
    made = intraq("synthesize", "resnet20_digits", "--recipe", "instant")
    assert made.code == 2
    assert "makes no images" in made.err


@pytest.mark.parametrize(
    "args", [("inspect", "resnet20_digits", "--bits-template"), ("zoo", "show", "results", "--csv")], ids=" ".join
)
def test_two_output_formats_at_once_are_refused(intraq, args):
    made = intraq(*args, "--json")
    assert (made.code, json.loads(made.out)["error"]["hint"]) == (2, "give only one of them")
