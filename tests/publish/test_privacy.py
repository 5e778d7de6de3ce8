"""Published files contain no paths of the computer that they were made on."""

import json
import shutil

import pytest

from intraq_cli.publish.card import model_card
from intraq_cli.publish.privacy import card_without_paths, local_names, without_paths
from intraq_cli.publish.repository import checkpoint_files
from tests.fakes.hub_routes import front_matter


def test_card_names_the_data_without_its_absolute_path(checkpoint):
    figures = {"n": 50, "top1": 80.0, "top5": 99.0, "float_top1": 81.0, "float_top5": 99.0, "agreement": 95.0}
    for data, shown in (("/home/somebody/imagenet/val", "imagenet/val"), ("imagenet/val", "imagenet/val")):
        one = {**figures, "data": data, "split": None, "limit": None, "seed": None, "date": "2026-01-01"}
        card = model_card(checkpoint.config, {**checkpoint.run, "evaluations": [one]})
        assert f"| {shown} | 50 |" in card
        assert front_matter(card)["model-index"][0]["results"][0]["dataset"]["name"] == f"{shown}, 50 images"
        assert "somebody" not in card


def test_published_files_contain_no_local_paths(checkpoints, tmp_path):
    """Neither the manifest, nor the config, nor a card of an earlier version."""
    folder = tmp_path / "own"
    shutil.copytree(checkpoints / "own", folder)
    home = "/home/some body"
    run = json.loads((folder / "run.json").read_text())
    run["command"] = f"intraq quantize '{home}/nets.py:net' --out={home.replace(' ', '')}/own -q"
    run["images"] = [f"{home}/images.safetensors"]
    run["teacher"] |= {"source": f"{home}/nets.py:net", "weights": "C:\\Users\\some body\\w.pth"}
    figures = {"n": 5, "top1": 80.0, "top5": 99.0, "float_top1": 81.0, "float_top5": 99.0, "agreement": 95.0}
    run["evaluations"] = [{**figures, "data": f"{home}/imagenet/val", "split": None, "date": "2026-01-01"}]
    run["device"] = f"{home}/device"
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "report.html").write_text(f"<script src='{home}/x.js'></script>")  # this file is not sent, but a new one
    card = (folder / "README.md").read_text().replace(" bits", f" bits\n\n{run['command']}\n\nhttps://x.org/home/some")
    (folder / "README.md").write_text(card)
    sent = checkpoint_files(folder, "me/own")
    told = b"".join(content for name, content in sent.items() if not name.endswith((".png", ".safetensors"))).decode()
    assert not any(path in told for path in (str(tmp_path), str(checkpoints), "some body", "somebody", "Users"))
    published = json.loads(sent["run.json"])
    assert published["command"] == "intraq quantize nets.py:net --out=own -q"
    assert (published["teacher"]["source"], published["teacher"]["weights"]) == ("nets.py:net", "w.pth")
    assert (published["images"], published["evaluations"][0]["data"]) == (["images.safetensors"], "imagenet/val")
    assert json.loads(sent["config.json"])["architecture"] == "nets.py:net"
    assert {key: value for key, value in published.items() if key in ("seed", "recipe", "measured")} == {
        key: run[key] for key in ("seed", "recipe", "measured")
    }
    assert "intraq quantize nets.py:net --out=own -q" in sent["README.md"].decode()
    assert "https://x.org/home/some" in sent["README.md"].decode()
    assert "intraq quantize nets.py:net --out=own -q" in sent["report.html"].decode()
    assert "<script" not in sent["report.html"].decode()


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("/home/me/resnet18", "resnet18"),
        ("/Users/me/val/", "val"),
        (r"C:\Users\me\val", "val"),
        ("/root/val", "val"),
        ("~/val", "val"),
        ("local-dir:/home/me/resnet18", "local-dir:resnet18"),
        (r"C:\models\net.py:make", "net.py:make"),
        (r"\\server\share\w.pth", "w.pth"),
        ("/data/me/train", "me/train"),
        ("~/me/x.toml", "x.toml"),
        ("hf-hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("models/here", "models/here"),
        ("/", "/"),
        ("intraq quantize /a/b --out '/c d/e' --set tuning.lr=1/2", "intraq quantize b --out e --set tuning.lr=1/2"),
        ("intraq quantize /a/b's", "intraq quantize b's"),
        ("quantize('/a/b', out='/c d/e', w=4)", "quantize('b', out='e', w=4)"),
        ("quantize('timm/x', w=4)", "quantize('timm/x', w=4)"),
        (
            "intraq quantize x --set synthesis.losses./a/b.py:f=0.1 --set=quantization.weight_rounding=/a/c.py:g",
            "intraq quantize x --set synthesis.losses.b.py:f=0.1 --set=quantization.weight_rounding=c.py:g",
        ),
        (
            """intraq quantize x --set 'synthesis.losses={"/a/b.py:f" = 0.1, "~/c.py:g"=1}' """,
            """intraq quantize x --set 'synthesis.losses={"b.py:f" = 0.1, "c.py:g"=1}'""",
        ),
        (
            """intraq quantize x '--set=synthesis.losses."/a/b.py:f"=0.1'""",
            """intraq quantize x '--set=synthesis.losses."b.py:f"=0.1'""",
        ),
        ("quantize('x', set=['synthesis.losses./a/b.py:f=0.1'])", "quantize('x', set=['synthesis.losses.b.py:f=0.1'])"),
        ("synthesis.losses.own/b.py:f", "synthesis.losses.own/b.py:f"),
        ("../../home/me/net.py:make", "net.py:make"),
        ("nets/../../me/net.py:make", "net.py:make"),
        ("intraq quantize x --out=runs/../../me/x", "intraq quantize x --out=x"),
        ("https://example.org/a/../b", "https://example.org/a/../b"),
        ("~me/w.pth", "w.pth"),
        ("file:///home/me/w.pth", "file:w.pth"),
        ("quantize('x', sensitivity='', out=\"/home/o'brien/x\")", "quantize('x', sensitivity='', out=\"x\")"),
        ("quantize('x', images=[PosixPath('/a/b'), 'c'])", "quantize('x', images=[PosixPath('b'), 'c'])"),
    ],
)
def test_absolute_paths_are_reduced_to_names(text, published):
    assert without_paths({"a": [text]}) == {"a": [published]}
    assert without_paths({text: 1}) == {published: 1}


@pytest.mark.parametrize(
    ("images", "published"),
    [
        (["syn.safetensors", "/home/me/pics"], ["syn.safetensors", "pics"]),
        (["/home/me/pics", "syn.safetensors"], ["pics", "syn.safetensors"]),
        ([], []),
    ],
)
def test_only_the_names_of_image_files_are_published(checkpoints, tmp_path, images, published):
    folder = tmp_path / "own"
    shutil.copytree(checkpoints / "own", folder)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "images": images}))
    sent = checkpoint_files(folder, "me/own")
    assert json.loads(sent["run.json"])["images"] == published
    assert ", ".join(published) in sent["report.html"].decode()
    assert b"home" not in sent["run.json"] + sent["report.html"]


def test_short_path_is_not_replaced_within_urls_and_longer_paths():
    card = "`/a` and https://arxiv.org/abs/1, /abc, x/a and (/a)"
    assert card_without_paths(card, {"images": ["/a"]}) == "`a` and https://arxiv.org/abs/1, /abc, x/a and (a)"


def test_teacher_from_a_folder_is_published_as_local_dir():
    run = {"teacher": {"source": "/home/me/resnet18"}}
    assert local_names(run)["teacher"]["source"] == "local-dir:resnet18"
    assert run["teacher"]["source"] == "/home/me/resnet18"
