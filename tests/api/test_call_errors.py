"""Errors of Python calls name the argument, and are worded in Python."""

import traceback
from pathlib import Path

import numpy as np
import pytest

from intraq_cli import (
    compare,
    evaluate,
    inspect,
    load,
    predict,
    push,
    quantize,
    quantize_seeds,
    sensitivity,
    synthesize,
)  # fmt: skip
from intraq_cli.api.call_errors import reworded
from intraq_cli.errors import IntraqError, UsageError
from tests.conftest import SPEC, SmallNet

FOLDER = Path(__file__).parent


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quantize("resnet20_digits", w=4.5), "w is 4.5"),
        (lambda: quantize("resnet20_digits", w="four"), "w is 'four'"),
        (lambda: quantize(3), "expected the name of a model or an nn.Module, got int"),
        (lambda: quantize(SmallNet), "expected the name of a model or an nn.Module, got the class SmallNet"),
        (lambda: quantize(), "model"),
        (lambda: quantize("resnet20_digits", bits=4), "bits"),
        (lambda: quantize("resnet20_digits", set=3), "set is 3"),
        (lambda: quantize("resnet20_digits", input_size=8), "input_size is 8"),
        (lambda: quantize("resnet20_digits", mean="0.5"), "mean"),
        (lambda: quantize("resnet20_digits", device=0), "device is 0"),
        (lambda: quantize("resnet20_digits", act_placement="outputs"), "act_placement is 'outputs'"),
        (lambda: quantize("resnet20_digits", weights=SmallNet().state_dict()), "weights is"),
        (lambda: quantize(SmallNet(), weights="w.pth", **SPEC), "--weights cannot be used with module:SmallNet"),
        (lambda: synthesize("resnet20_digits", n="many"), "n is 'many'"),
        (lambda: evaluate("resnet20_digits", data=["digits"]), "data is"),
        (lambda: evaluate("resnet20_digits", "digits", limit=2.5), "limit is 2.5"),
        (lambda: load(3), "target is 3"),
        (lambda: load("resnet20_digits", model=3), "expected the name of a model or an nn.Module, got int"),
        (lambda: inspect(None), "expected the name of a model or an nn.Module, got NoneType"),
        (lambda: push("folder", 3), "repo_id is 3"),
    ],
)  # fmt: skip
def test_invalid_argument_raises_a_usage_error_that_names_it(call, says):
    with pytest.raises(UsageError) as caught:
        call()
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("call", "says", "hint"),
    [
        (lambda: compare("bt", "o1"), "takes 1 positional argument but 2 were given", "compare(['bt', 'o1'])"),
        (lambda: predict("m", "a.jpg", "b.jpg"), "but 3 were given", "predict('m', ['a.jpg', 'b.jpg'])"),
        (lambda: quantize("m", 4, 4), "takes 1 positional argument but 3", "by name: w=..., a=..., "),
        (lambda: quantize("m", model="m"), "multiple values for argument 'model'", ""),
        (lambda: quantize("m", input_size=(8, 8)), "input_size is (8, 8), but must be (C, H, W)", ""),
        (lambda: quantize("m", mean=0.3), "mean is 0.3, but must be a tuple of numbers", ""),
        (lambda: quantize("m", mean=(0.3, "x")), "mean is (0.3, 'x'), but must be a tuple of numbers", ""),
        (lambda: quantize("m", set=3), """set is 3, but must be a dict such as {"tuning.steps": 200}""", ""),
        (lambda: quantize("m", bits=4), "bits is 4, but must be a string or a path", ""),
        (lambda: inspect("m", act_placement="x"), "'x', but must be one of 'inputs', 'activations', 'integer'", ""),
        (lambda: sensitivity("m", widths=[2, 4.5]), "widths is [2, 4.5], but must be a list of whole numbers", ""),
        (lambda: sensitivity("m", num_images=8), "unexpected keyword argument 'num_images'", "did you mean n?"),
        (lambda: quantize("m", placement="inputs"), "argument 'placement'", "did you mean act_placement?"),
        (lambda: quantize("m", seeds=[1, 2]), "argument 'seeds'", "quantize_seeds()"),
        (lambda: evaluate(["a", "b"], "digits"), "one target", "evaluate_many()"),
        (lambda: quantize("m", w=33), "w=33: must be from 2 to 8 bits", ""),
        (lambda: evaluate("m", "digits", limit=0), "limit=0: must be at least 1", ""),
        (lambda: sensitivity("m", n=1), "n=1: must be at least 2", ""),
        (lambda: quantize("m", w=(2, 4)), "w: several widths", "width, or add target_size=, avg_bits= or bops="),
        (lambda: evaluate("m", "digits", save=True), "save=True: m is not a checkpoint folder", ""),
        (lambda: quantize("resnet20_digits", out=FOLDER), " already exists", "another out=, or force=True"),
    ],
)  # fmt: skip
def test_errors_use_python_syntax_and_show_their_hint(call, says, hint):
    with pytest.raises(IntraqError) as caught:
        call()
    shown = "".join(traceback.format_exception_only(caught.value))
    assert says in shown
    assert hint in shown
    assert "--" not in shown
    assert "ValidationError" not in "".join(traceback.format_exception(caught.value))


def test_shell_commands_in_hints_are_not_rewritten_to_python():
    error = UsageError("--w 2,4: no", "`intraq quantize MODEL --no-resume` or --no-cache, --device cpu")
    assert (str(reworded(error)), error.__notes__) == (
        "w=(2, 4): no",
        ["hint: `intraq quantize MODEL --no-resume` or cache=False, device='cpu'"],
    )
    assert error.message == "--w 2,4: no"


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("use --set tuning.steps=0, --images", 'use set={"tuning.steps": 0}, images='),
        ("use --set quantization.activation_range=mse", 'use set={"quantization.activation_range": "mse"}'),
        ("lower it (--set synthesis.lr=1e-05)", 'lower it (set={"synthesis.lr": 1e-05})'),
        ("--set tuning.steps: must be", "set=tuning.steps: must be"),
        ("add --model file.py:factory", "add model=file.py:factory"),
    ],
)
def test_settings_and_factories_in_a_hint_are_pythons(typed, written):
    assert str(reworded(UsageError(typed))) == written


@pytest.mark.parametrize("seed", [-1, 2**63, np.uint64(2**63)])
def test_seeds_out_of_range_are_usage_errors(seed):
    for call in (
        lambda: quantize("resnet20_digits", seed=seed),
        lambda: quantize_seeds("resnet20_digits", seeds=[0, int(seed)]),
        lambda: evaluate("resnet20_digits", data="digits", seed=seed),
    ):
        with pytest.raises(UsageError, match=f"{2**63 - 1}"):
            call()
