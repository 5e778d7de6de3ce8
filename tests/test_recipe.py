import ast
import dataclasses
import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from intraq_cli import recipe as recipes
from intraq_cli.errors import RecipeError
from intraq_cli.recipe import Recipe, choose_placement
from intraq_cli.zoo import load_recipe, recipe_names, recipe_path


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_loads_and_has_a_description(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_dict(recipe.to_dict(), name) == recipe


def test_documented_recipes_are_bundled():
    assert {"default", "fast", "paper-cifar10", "paper-cifar100", "paper-imagenet"} <= set(recipe_names())


def test_paper_recipes_have_the_published_values():
    recipe = load_recipe("paper-cifar10")
    s, t = recipe.synthesis, recipe.tuning
    assert (s.lambda_lower, s.lambda_upper, s.epsilon, s.eta) == (0.05, 0.8, 0.95, 0.5)
    assert round(s.num_images * (1 - t.holdout)) == 5120
    assert (t.kl_weight, t.temperature, t.ce_weight, t.steps) == (20, 20, 1, 147 * 200)
    # the published ImageNet script switches two parts off; the recipe must not
    imagenet = load_recipe("paper-imagenet").synthesis
    assert imagenet.lambda_lower > 0
    assert imagenet.lambda_upper < 2
    assert imagenet.epsilon < 1


def test_overrides_change_their_settings():
    recipe = Recipe().override(
        ["tuning.steps=7", "synthesis.clip=false", "synthesis.bns=paper", "tuning.lr_steps=[1, 2]", "tuning.lr=1"]
    )
    assert (recipe.tuning.steps, recipe.synthesis.clip, recipe.synthesis.bns) == (7, False, "paper")
    assert recipe.tuning.lr_steps == (1, 2)
    for text, value in (("true", True), ("false", False), ("auto", "auto")):
        assert Recipe().override([f"tuning.compile={text}"]).tuning.compile == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tuning.stepz=7", "did you mean tuning.steps"),
        ("tuning.steps=-1", "tuning.steps is -1"),
        ("tuning.steps=1.5", "tuning.steps is 1.5"),
        ("tuning.steps=many", "whole number"),
        ("synthesis.eta=nan", "synthesis.eta is nan"),
        ("synthesis.clip=1", "true or false"),
        ("synthesis.bns=other", "scale-free, paper"),
        ("tuning.compile=1", "auto, true, false"),
        ("tuning.lr_steps=3", "list of whole numbers"),
        ("steps=7", "section.key=value"),
        ("tuning.steps", "section.key=value"),
        ("tunning.steps=7", "unknown recipe table"),
        ("synthesis.losses.own.py=1", "path/to/file.py:function"),
        ("synthesis.losses.own.py:f=-1", "synthesis.losses.own.py:f is -1"),
        ("synthesis.losses.own.py:f=much", "must be a number"),
        ("synthesis.losses=3", "must be a table"),
        ("quantization.weight_rounding=own.py", "nearest, squant, gptq, or path/to/file.py:function"),
        ("quantization.weight_rounding=a b", "nearest, squant, gptq"),
    ],
)
def test_error_for_an_invalid_override_says_what_is_wrong(text, says):
    with pytest.raises(RecipeError) as caught:
        Recipe().override([text])
    assert says in caught.value.message + " " + caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["synthesis.losses.a/own.py:f=0.5", 'synthesis.losses."a/own.py:f"=0.5', 'synthesis.losses={"a/own.py:f"=0.5}'],
)
def test_custom_losses_can_be_added_one_by_one_or_as_a_table(text):
    first = Recipe().override(["synthesis.losses.mine=2"])
    assert first.synthesis.losses == {"mine": 2.0}
    both = {"a/own.py:f": 0.5} if "{" in text else {"mine": 2.0, "a/own.py:f": 0.5}
    assert first.override([text]).synthesis.losses == both


def test_custom_rounding_is_refused_with_recomputed_scales_or_ema_ranges():
    own = "quantization.weight_rounding=own.py:f"
    assert Recipe().override([own]).quantization.weight_rounding == "own.py:f"
    with pytest.raises(RecipeError, match="does not work with weight_scale = recomputed"):
        Recipe().override([own, "quantization.weight_scale=recomputed"])
    with pytest.raises(RecipeError, match="ema needs weight_rounding = nearest or squant, and correction = never"):
        Recipe().override([own, "quantization.activation_range=ema", "quantization.correction=never"])


def test_recipe_file_may_only_name_code_in_its_own_folder(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[quantization]\nweight_rounding = "r.py:g"\n[synthesis.losses]\n"sub/own.py:f" = 0.5\nmine = 1\n')
    recipe = load_recipe(str(path))
    assert recipe.synthesis.losses == {f"{tmp_path}/sub/own.py:f": 0.5, "mine": 1.0}
    assert recipe.quantization.weight_rounding == f"{tmp_path}/r.py:g"
    for elsewhere in ("../own.py:f", "/usr/own.py:f", "sub/../../own.py:f"):
        path.write_text(f'[synthesis.losses]\n"{elsewhere}" = 0.5\n')
        with pytest.raises(RecipeError, match="outside its own folder"):
            load_recipe(str(path))
    path.write_text('[synthesis.losses]\n"own.py:f" = 0.5\n')
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="names code in a model's folder, which is not run"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"tuning": {"stepz": 1}}, "unknown recipe key tuning.stepz"),
        ({"tunning": {}}, "did you mean tuning"),
        ({"tuning": 3}, "must be a table"),
        ({"tuning": {"steps": True}}, "whole number"),
        ({"synthesis": {"schedule": ["cosine"]}}, "one of"),
    ],
)
def test_error_for_invalid_recipe_data_says_what_is_wrong(data, says):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(data, "x")
    assert says in caught.value.message + " " + caught.value.hint


def test_error_names_every_invalid_value():
    data = {"tuning": {"stepz": 1, "lr": "fast", "lr_steps": [1, -1]}, "synthesis": {"eta": 2, "compile": 1}}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(data, "x")
    for part in ("key tuning.stepz", "tuning.lr is 'fast'", "tuning.lr_steps.1 is -1", "synthesis.eta is 2", "compile"):
        assert part in caught.value.message
    assert "must be less than or equal to 1" in caught.value.hint


def test_replaced_values_of_a_section_are_validated_too():
    tuning = Recipe().tuning
    assert dataclasses.replace(tuning, lr=1).lr == 1
    with pytest.raises(ValueError, match="lr"):
        dataclasses.replace(tuning, lr=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tuning.lr = 1


def test_placement_option_takes_precedence_over_the_recipe():
    paper, default = load_recipe("paper-imagenet"), load_recipe("default")
    assert [choose_placement(None, recipe) for recipe in (paper, default)] == ["activations", "inputs"]
    assert choose_placement("inputs", paper) == "inputs"
    assert choose_placement("activations", default) == "activations"
    assert choose_placement(None, default.override(["quantization.act_placement=activations"])) == "activations"


def test_recipe_file_is_loaded_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('description = "mine"\n[tuning]\nsteps = 3\n')
    assert load_recipe(str(path)).tuning.steps == 3
    path.write_text("[tuning\n")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(RecipeError) as caught:
        load_recipe("defualt")
    assert "default" in caught.value.hint


def test_default_recipe_file_states_every_default_setting():
    assert load_recipe("default").to_dict() | {"description": ""} == Recipe().to_dict()
    stated = tomllib.loads(recipe_path("default").read_text())
    optional = {"losses", "act_placement"}
    for section in ("synthesis", "quantization", "tuning"):
        assert set(stated[section]) == set(Recipe().to_dict()[section]) - optional


def test_malicious_recipe_file_is_a_one_line_error(tmp_path):
    path = tmp_path / "mine.toml"
    digits = b"9" * 5000
    contents = (
        b"x = " + b"[" * 50_000,
        b"\xff",
        b"description = 3",
        b"name = [1]",
        b"x" * 2**19 + b" = 1",
        b"#" * (2**20 + 1),
        b"[tuning]\nsteps = " + digits,
        b"[tuning]\nsteps = 0x" + digits,
        b"[tuning]\nlr_steps = [0x" + digits + b"]",
        b"[tuning]\nkl_weight = inf",
        b"[tuning]\nkl_weight = 1e300",
    )
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(RecipeError) as caught:
            load_recipe(str(path))
        assert caught.value.message.isprintable()
    path.unlink()
    path.mkdir()
    for name in (str(path), "x" * 5000, "x" * 5000 + ".toml"):
        with pytest.raises(RecipeError):
            load_recipe(name)


def test_ema_ranges_require_nearest_rounding_without_correction():
    with pytest.raises(
        RecipeError, match="ema needs weight_rounding = nearest or squant, and correction = never"
    ) as refused:
        Recipe().override(["quantization.activation_range=ema"])
    others = ["quantization.weight_rounding=nearest", "quantization.correction=never"]
    assert all(other in refused.value.hint for other in others)
    assert Recipe().override(["quantization.activation_range=ema", *others]).quantization.activation_range == "ema"


def test_help_does_not_import_pydantic():
    script = "import sys; from intraq_cli.app import main; main(['--help']); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_every_setting_is_documented():
    """``docs/recipes.md`` is generated from these texts, so a setting without one would be missing there."""
    tree = ast.parse(Path(recipes.__file__).read_text(encoding="utf-8"))
    described = {
        f"{section.name}.{field.target.id}"
        for section in ast.walk(tree)
        if isinstance(section, ast.ClassDef)
        for field, text in itertools.pairwise(section.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    fields = {
        f"{kind.__name__}.{field.name}" for kind in recipes.SECTIONS.values() for field in dataclasses.fields(kind)
    }
    assert fields <= described, fields - described


@pytest.mark.parametrize("rounding", ["gptq", "squant"])
def test_gptq_and_squant_are_refused_with_recomputed_scales(rounding):
    with pytest.raises(RecipeError, match="does not work with weight_scale = recomputed"):
        Recipe().override(["quantization.weight_scale=recomputed", f"quantization.weight_rounding={rounding}"])


def test_recipe_file_must_be_utf_8_and_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[tuning]\nsteps = 7\n", encoding="utf-8-sig")
    assert load_recipe(str(path)).tuning.steps == 7
    path.write_text("[tuning]\nsteps = 7\n", encoding="utf-16")
    with pytest.raises(RecipeError, match="is not UTF-8 text: byte 0 is invalid"):
        load_recipe(str(path))
