import errno
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from intraq_cli import IntraqError, images, synthesize
from intraq_cli.errors import OutputError
from intraq_cli.models.class_names import class_names
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.teacher import Teacher
from intraq_cli.synthesis.image_set import read_images, save_images
from intraq_cli.zoo import load_recipe
from tests.conftest import INPUT, SPEC, TINY, SmallNet, trained

SMALL = ["synthesis.num_images=12", "synthesis.batch_size=12", "synthesis.steps=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an image file and the PNGs that ``synthesize`` wrote beside it, and the images' network."""
    folder = tmp_path_factory.mktemp("made")
    network = trained(SmallNet())
    given = {"input_size": (3, 8, 8), "mean": (0.4, 0.5, 0.6), "std": (0.25,) * 3, "set": SMALL, "device": "cpu"}
    result = synthesize(network, out=folder / "i.safetensors", png=folder / "png", seed=5, **given)
    assert result.png == str(folder / "png")
    return folder, network


def test_stored_confidences_are_the_float_networks_probabilities(made):
    folder, network = made
    found = read_images(folder / "i.safetensors").made
    chances = network(found.images.float()).softmax(1)[range(12), found.labels]
    assert torch.allclose(found.confidences, chances, atol=2e-3)  # measured before the images were rounded to float16
    assert images(folder / "i.safetensors").confidence == pytest.approx(chances.mean().item(), abs=2e-3)


def test_pngs_from_an_image_file_equal_those_written_by_synthesize(made, tmp_path):
    folder, _ = made
    result = images(folder / "i.safetensors", png=tmp_path / "png", sheet=tmp_path / "sheet.png")
    names = [
        sorted(str(p.relative_to(root)) for p in root.rglob("*.png")) for root in (folder / "png", tmp_path / "png")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 12
    for name in names[0]:
        assert (folder / "png" / name).read_bytes() == (tmp_path / "png" / name).read_bytes()
        with Image.open(folder / "png" / name) as picture:
            assert picture.size == (8, 8)
    assert (result.png, result.sheet) == (str(tmp_path / "png"), str(tmp_path / "sheet.png"))
    assert (result.n, result.image_shape, result.seed, result.model) == (12, (3, 8, 8), 5, "module:SmallNet")
    assert [(c.index, c.name, c.n) for c in result.classes] == [(k, f"class {k}", 3) for k in range(4)]
    assert result.recipe["steps"] == 2


def test_file_and_folder_at_one_path_are_refused_before_any_work(tmp_path):
    with pytest.raises(OutputError, match=r"x.png would be both a file and a folder"):
        synthesize("nowhere", out=tmp_path / "x.png", png=tmp_path / "x.png")
    with pytest.raises(OutputError, match=r"x.png would be both a file and a folder"):
        images("nowhere", sheet=tmp_path / "x.png", png=tmp_path / "x.png")
    (tmp_path / "made").mkdir()
    with pytest.raises(OutputError, match=r"i.safetensors would be in .*made, which is replaced"):
        synthesize("nowhere", out=tmp_path / "made/i.safetensors", png=tmp_path / "made", force=True)
    with pytest.raises(OutputError, match=r"sheet.png would be in .*made, which is replaced"):
        images("nowhere", sheet=tmp_path / "made/sheet.png", png=tmp_path / "made", force=True)


def test_selected_classes_are_exported_and_missing_ones_refused(made, tmp_path):
    file = made[0] / "i.safetensors"
    result = images(file, png=tmp_path / "png", classes=[2, 0])
    assert [c.index for c in result.classes] == [0, 2]
    assert sorted(p.name for p in (tmp_path / "png").iterdir()) == ["0", "2"]
    with pytest.raises(IntraqError, match="no images of class 4"):
        images(file, classes=[4])


def test_only_force_replaces_outputs_and_never_folders_with_foreign_files(made, tmp_path):
    file, there = made[0] / "i.safetensors", tmp_path / "png"
    there.mkdir()
    (there / "mine").write_text("mine")
    for refused in ({"png": there}, {"sheet": there / "mine"}, {"sheet": tmp_path / "a.gif"}):
        with pytest.raises(IntraqError):
            images(file, **refused)
    assert (there / "mine").read_text() == "mine"
    with pytest.raises(IntraqError, match="contains files that this command did not make"):
        images(file, png=there, force=True)
    assert (there / "mine").read_text() == "mine"
    (there / "0").mkdir()
    (there / "mine").unlink()
    Image.new("L", (8, 8)).save(there / "0/00001_0.900.png")
    with pytest.raises(
        IntraqError, match="contains files that this command did not make"
    ):  # named like our files, but somebody else's
        images(file, png=there, force=True)
    shutil.rmtree(there)
    images(file, png=there)
    (there / "0/old.png").write_bytes(next((there / "0").iterdir()).read_bytes())
    images(file, png=there, force=True)
    assert not (there / "0/old.png").exists()
    with pytest.raises(IntraqError, match="exists"):
        synthesize("resnet20_digits", out=tmp_path / "j.safetensors", png=there)
    assert not (tmp_path / "j.safetensors").exists()


def test_images_command_summarizes_the_image_file(intraq, factory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert intraq("synthesize", f"{factory}:net", *INPUT, *TINY, "--out", "i.safetensors", "--png", "a").code == 0
    ran = intraq("images", "i.safetensors", "--png", "b", "--sheet", "s.jpg", "-q")
    assert (ran.code, ran.out) == (0, "b\ns.jpg\n")
    ran = intraq("images", "i.safetensors")
    assert "32 of 3x8x8" in ran.out
    assert "10 to 11 each: class 0, class 1" in ran.out
    assert "steps=3" in ran.out
    assert ", of all" not in ran.out
    assert intraq("images", "nets.py").code == 1
    assert intraq("images", "i.safetensors", "--classes", "x").code == 2


def test_summary_of_selected_classes_says_which_images_each_figure_covers(made, intraq):
    file = made[0] / "i.safetensors"
    result = images(file, classes=[2, 0])
    assert (result.n, result.n_file, images(file).n_file) == (6, 12, 12)
    lines = intraq("images", file, "--classes", "2,0").out.splitlines()
    told = {name: text.strip() for name, _, text in (line.partition(" ") for line in lines[1:])}
    assert told["images"] == "6 of 3x8x8, chosen out of 12"
    assert told["confidence"] == f"{100 * result.confidence:.1f} % on average for the intended class"
    for name in ("losses", "teacher", "heterogeneity"):
        assert told[name].endswith(", of all 12 images in the file")
    assert "confidence" not in told["teacher"]


@pytest.mark.parametrize(
    ("recipe", "changed", "told"),
    [
        ("fast", {"num_images": 16, "steps": 1}, "fast with num_images=16, steps=1"),
        ("default", {"num_images": 16}, "default with num_images=16"),
        ("fast", {}, "fast"),
    ],
)
def test_summary_names_the_closest_recipe_and_the_changed_settings(intraq, made, tmp_path, recipe, changed, told):
    settings = {**load_recipe(recipe).to_dict()["synthesis"], **changed}
    found = read_images(made[0] / "i.safetensors")
    save_images(tmp_path / "i.safetensors", replace(found, origin={**found.origin, "recipe": settings}))
    lines = intraq("images", tmp_path / "i.safetensors").out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("recipe")] == [told]


def test_class_names_come_from_the_model_or_from_imagenet():
    spec = InputSpec((3, 8, 8), (0.5,) * 3, (0.5,) * 3)

    def named(source, count=1000, **given):
        teacher = Teacher(torch.nn.Identity(), spec, source, "x", "x", **given)
        return class_names(teacher, count)

    assert named("nets.py:net") is None
    assert named("nets.py:net", 2, label_names=["a", "b"]) == ["a", "b"]
    names = named("resnet18", pretrained_cfg={"tag": "a1_in1k"})
    assert (len(names), names[2], names[207]) == (1000, "great white shark", "golden retriever")
    assert named("torchvision:resnet18", pretrained_cfg={"tag": "IMAGENET1K_V1"}) == names
    assert named("resnet18", 10, pretrained_cfg={"tag": "a1_in1k"}) is None
    assert named("resnet18", pretrained_cfg={"tag": "a1_in1k"}, weights="own.pth") is None
    assert named("resnet18.a1_in1k", pretrained_cfg={"tag": "a1_in1k"}, weights="own.pth") == names


def test_synthesize_can_be_repeated_after_failing_to_write_pngs(tmp_path, network, monkeypatch):
    few = ["synthesis.num_images=8", "synthesis.batch_size=8", "synthesis.steps=2"]
    given = {**SPEC, "device": "cpu", "set": few}
    given |= {"out": tmp_path / "i.safetensors", "png": tmp_path / "png"}

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("intraq_cli.api.synthesize.write_class_folders", full)
        with pytest.raises(OutputError, match="No space left on device"):
            synthesize(network, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["i.safetensors.unfinished"]
    synthesize(network, **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.safetensors", "png"]
