"""``--images``: synthetic ones from a file, pictures from a folder, or both."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from intraq_cli import quantize, sensitivity, synthesize
from intraq_cli.errors import DataError, UsageError
from intraq_cli.events import Noted, Warned
from intraq_cli.jobs.given_images import digest_of_images
from intraq_cli.synthesis.image_set import read_images
from intraq_cli.synthesis.rendering import images_of_sheet
from tests.conftest import FACTORY, INPUT, SPEC, TINY, TINY_SET

GIVEN = {**SPEC, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A factory, a folder of 24 pictures, and a file of synthetic images of its network."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "nets.py").write_text(FACTORY)
    random = torch.Generator().manual_seed(0)
    for k in range(24):
        below = folder / "pictures" / f"of-customer-{k % 2}"
        below.mkdir(parents=True, exist_ok=True)
        pixels = (128 + 40 * torch.randn(8, 8, 3, generator=random)).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(below / f"{k}.png")
    synthesize(f"{folder / 'nets.py'}:net", out=folder / "images.safetensors", set=TINY_SET, **GIVEN)
    return folder


def made(place, out, *images, **more):
    events = []
    result = quantize(
        f"{place / 'nets.py'}:net", images=images, out=out, set=TINY_SET, report=events.append, **{**GIVEN, **more}
    )
    return result, json.loads((out / "run.json").read_text()), events


def test_pictures_replace_synthetic_images_and_are_never_shown(place, tmp_path):
    result, run, events = made(place, tmp_path / "out", place / "pictures")
    assert (result.pictures, result.held_out) == (24, 3)
    assert run["measured"]["pictures"] == run["measured"]["images"] == 24
    assert result.losses.keys() == {"pictures", "tuning"}
    assert "synthesis" not in result.stages
    assert run["samples"] == []
    assert any("24 of 24 pictures" in event.message for event in events if isinstance(event, Noted))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"README.md", "config.json", "metrics.jsonl", "model.safetensors", "report.html", "run.json"}
    card, page = ((tmp_path / "out" / name).read_text() for name in ("README.md", "report.html"))
    assert all("24 pictures and no labels" in text for text in (card, page))
    assert not any("no training data" in text for text in (card, page))
    assert "data-free" not in card
    assert "data:image/" not in page
    assert "synthetic images" not in (card + page).lower()


def test_pictures_beside_synthetic_images_are_not_on_the_contact_sheet(place, tmp_path):
    result, run, _ = made(place, tmp_path / "out", place / "images.safetensors", place / "pictures")
    assert (result.pictures, run["measured"]["images"]) == (24, 24 + 32)
    assert len(run["samples"]) > 0
    synthetic = read_images(place / "images.safetensors")
    shown = images_of_sheet(tmp_path / "out/samples.png", synthetic.spec)
    distance = (shown[:, None] - synthetic.made.images.float()[None]).abs().amax((2, 3, 4)).amin(1)
    assert distance.max() < 0.05  # each image on the sheet is one of the file, up to the rounding of pixels
    card = (tmp_path / "out/README.md").read_text()
    assert "which were used as well" in card
    assert "![synthetic images](samples.png)" in card


def test_same_seed_gives_the_same_checkpoint_from_pictures(place, tmp_path):
    for name in ("a", "b"):
        made(place, tmp_path / name, place / "pictures")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_image_digest_depends_on_images_and_labels(place):
    made = read_images(place / "images.safetensors").made
    others = [replace(made, images=made.images + 1), replace(made, labels=made.labels.flip(0)), None]
    assert digest_of_images(made) == digest_of_images(made.select(slice(None)))
    assert len({digest_of_images(one) for one in (made, *others)}) == 4


def test_unreadable_pictures_are_skipped_with_a_warning(place, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 1 pictures can be read"):
        made(place, tmp_path / "none", folder)
    for k in range(8):
        (folder / f"{k}.png").write_bytes((place / f"pictures/of-customer-{k % 2}/{k}.png").read_bytes())
    result, _, events = made(place, tmp_path / "out", folder)
    assert result.pictures == 8
    assert any("1 of 9 pictures were left out" in event.message for event in events if isinstance(event, Warned))


def test_number_of_pictures_is_limited_to_the_recipes_num_images(place, tmp_path, monkeypatch):
    monkeypatch.setattr("intraq_cli.api.quantize.CALIBRATION_IMAGES", 4)
    few = [*TINY_SET, "synthesis.num_images=10", "synthesis.batch_size=10"]
    result = quantize(f"{place / 'nets.py'}:net", images=str(place / "pictures"), out=tmp_path / "o", set=few, **GIVEN)
    assert result.pictures == 10


def test_pictures_unlike_the_training_images_cause_a_warning(place, tmp_path):
    folder = tmp_path / "white"
    folder.mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (255, 255, 250 + k)).save(folder / f"{k}.png")
    _, _, events = made(place, tmp_path / "out", folder)
    assert any(
        "do not resemble the network's training data" in event.message for event in events if isinstance(event, Warned)
    )


def test_sensitivities_can_be_measured_on_pictures(place):
    found = sensitivity(f"{place / 'nets.py'}:net", images=place / "pictures", n=8, widths=(4,), **GIVEN)
    assert found.n == 8


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (["pictures", "pictures/of-customer-0"], UsageError, "several files, or several folders"),
        (["images.safetensors", "images.safetensors"], UsageError, "several files, or several folders"),
        (["empty"], DataError, "contains no images"),
        (["nowhere"], DataError, "nowhere"),
        (["nowhere.png"], DataError, "there is no file .*nowhere.png"),
        (["pictures/of-customer-0/0.png"], DataError, "0.png is one picture, not a set of images"),
    ],
)
def test_several_empty_or_missing_image_sources_are_refused(place, tmp_path, images, error, said):
    (place / "empty").mkdir(exist_ok=True)
    with pytest.raises(error, match=said):
        made(place, tmp_path / "out", *(place / one for one in images))
    assert not (tmp_path / "out").exists()


def test_images_option_can_be_given_twice(place, tmp_path, intraq):
    both = ("--images", place / "images.safetensors", "--images", place / "pictures")
    ran = intraq(
        "quantize", f"{place / 'nets.py'}:net", *INPUT, *TINY, *both, "--out", tmp_path / "out", "--device", "cpu"
    )
    assert ran.code == 0
    assert "held-out images" in ran.out
    assert "they stay on this machine" in ran.err


def test_image_digest_can_be_computed_for_bfloat16(place):
    made = read_images(place / "images.safetensors").made
    halved = replace(made, images=made.images.bfloat16())
    assert digest_of_images(halved) not in (digest_of_images(made), None)
