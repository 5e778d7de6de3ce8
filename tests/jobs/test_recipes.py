import json

import pytest
import torch

from intraq_cli import IntraqError, image_loss, quantize, synthesize, weight_rounding
from intraq_cli.errors import RecipeError, UsageError
from intraq_cli.io.digests import file_digest
from intraq_cli.jobs.recipes import chosen_recipe, code_of
from tests.conftest import INPUT, SPEC, TINY, TINY_SET, SmallNet, Stop, stopping, trained

CODE = """
from helper import half

def bright(given):
    return half * (1 - given.pixels).square().mean()

def floor(given):
    per_channel = (-1,) + (1,) * (given.weight.dim() - 1)
    return given.weight.floor().clamp(given.low.view(per_channel), given.high.view(per_channel))

def broken(given):
    return given.images[
        "no such thing"
    ]
"""
GIVEN = {**SPEC, "device": "cpu"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("half = 0.5\n")
    return tmp_path / "own.py"


def test_custom_losses_and_rounding_are_run_and_recorded_in_run_json(intraq, factory, own, tmp_path):
    sets = ("--set", f"synthesis.losses.{own}:bright=2", "--set", "quantization.weight_rounding=own.py:floor")
    made = intraq("quantize", f"{factory}:net", *INPUT, *TINY, *sets, "--out", "out", "--json")
    assert made.code == 0, made.err
    run = json.loads((tmp_path / "out/run.json").read_text())
    digest = file_digest(own)
    assert run["code"] == [{"name": f"{own}:bright", "sha256": digest}, {"name": "own.py:floor", "sha256": digest}]
    assert run["recipe"]["synthesis"]["losses"] == {f"{own}:bright": 2.0}
    assert 0 < run["losses"]["synthesis"]["bright"] < 0.5
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()


def test_custom_loss_gives_the_same_result_by_recipe_file_or_option(own, tmp_path):
    (tmp_path / "mine.toml").write_text('[synthesis.losses]\n"own.py:bright" = 2\n')
    network = trained(SmallNet())
    few = [*TINY_SET, "synthesis.num_images=8", "synthesis.batch_size=8"]
    given = {**GIVEN, "seed": 1}
    one = synthesize(network, out="a.safetensors", recipe="mine.toml", set=few, **given)
    two = synthesize(network, out="b.safetensors", set=[*few, "synthesis.losses.own.py:bright=2"], **given)
    assert one.losses == two.losses
    assert one.losses["bright"] > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.py:f", "no file none.py"),
        ("own.py:brigth", "no function brigth"),
        ("undecorated", "there is no image loss called undecorated"),
        ("bad.py:f", "bad.py, line 2: NameError"),
        ("helper.py:half", "no function half"),
        ("bns.py:bns", "two losses have the name bns"),
    ],
)
def test_unavailable_custom_code_is_refused_with_a_reason(own, tmp_path, name, says):
    (tmp_path / "bad.py").write_text("\nnothing\n")
    (tmp_path / "bns.py").write_text("def bns(given):\n    return given.images.mean()\n")
    with pytest.raises(RecipeError, match=says):
        chosen_recipe("default", [f"synthesis.losses.{name}=1"])


def test_error_in_custom_code_names_its_line(intraq, factory, own):
    made = intraq("synthesize", f"{factory}:net", *INPUT, *TINY, "--set", "synthesis.losses.own.py:broken=1", "--json")
    assert made.code == 1
    error = json.loads(made.out)["error"]
    assert error["code"] == "recipe"
    assert "own.py, line 12: " in error["message"]
    made = intraq("sensitivity", f"{factory}:net", *INPUT, *TINY, "-n", 4, "--set", "synthesis.losses.own.py:broken=1")
    assert "own.py, line 12: " in made.err
    made = intraq("quantize", f"{factory}:net", *INPUT, *TINY, "--set", "quantization.weight_rounding=own.py:broken")
    assert made.code == 1
    assert "own.py, line 12: " in made.err


def test_run_resumes_only_with_the_same_custom_code(own, tmp_path, saved_at_every_step):
    network = trained(SmallNet())
    sets = [*TINY_SET, "synthesis.losses.own.py:bright=2"]
    with pytest.raises(Stop):
        synthesize(network, out="i.safetensors", set=sets, report=stopping("synthesis", 4), **GIVEN)
    own.write_text(CODE.replace("1 - given", "2 - given"))
    with pytest.raises(IntraqError, match="is from a run that differs in code"):
        synthesize(network, out="i.safetensors", set=sets, **GIVEN)
    own.write_text(CODE)
    assert synthesize(network, out="i.safetensors", set=sets, **GIVEN).n == 32


def test_decorated_functions_are_available_by_their_names(own, tmp_path):
    @image_loss
    def dark(given):
        return given.pixels.square().mean()

    @weight_rounding
    def ceiling(given):
        per_channel = (-1,) + (1,) * (given.weight.dim() - 1)
        return given.weight.ceil().clamp(given.low.view(per_channel), given.high.view(per_channel))

    network = trained(SmallNet())
    sets = [*TINY_SET, "synthesis.losses.dark=1", "quantization.weight_rounding=ceiling"]
    made = quantize(network, out="out", set=sets, **GIVEN)
    assert made.losses["synthesis"]["dark"] > 0
    digest = file_digest(__import__("pathlib").Path(__file__))
    assert code_of(chosen_recipe("default", sets)) == [
        {"name": "dark", "sha256": digest},
        {"name": "ceiling", "sha256": digest},
    ]
    with pytest.raises(RecipeError, match="there is no weight rounding called cieling") as caught:
        chosen_recipe("default", ["quantization.weight_rounding=cieling"])
    assert "ceiling" in caught.value.hint


def test_names_of_built_in_losses_and_roundings_are_reserved():
    with pytest.raises(UsageError, match="bns"):
        image_loss(type("Named", (), {"__name__": "bns", "__call__": lambda self, given: torch.zeros(())})())

    def nearest(given):
        return given.weight

    with pytest.raises(UsageError, match="nearest"):
        weight_rounding(nearest)


def test_using_a_checkpoint_does_not_run_its_recipes_custom_code(intraq, factory, labelled, own):
    sets = ("--set", "synthesis.losses.own.py:bright=2", "--set", "quantization.weight_rounding=own.py:floor")
    model = f"{factory}:net"
    assert intraq("quantize", model, *INPUT, *TINY, *sets, "--out", "out").code == 0
    own.write_text("raise SystemExit('it ran')\n")
    assert intraq("evaluate", "out", "--model", model, "--data", labelled, "--save").code == 0
    assert intraq("push", "out", "me/out", "--dry-run").code == 0


@pytest.mark.parametrize("name", ["images", "step", "seconds", "stage"])
def test_custom_loss_named_like_a_field_of_the_metrics_is_refused(own, name):
    own.write_text(CODE.replace("def bright", f"def {name}"))
    with pytest.raises(RecipeError, match=f"own.py:{name}: {name} is the name of a built-in metric"):
        chosen_recipe("default", [f"synthesis.losses.own.py:{name}=2"])
