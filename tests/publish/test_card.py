"""Model cards describe the bits and images of the checkpoint correctly."""

import json

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli import compare, inspect, push, quantize, synthesize
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.events import silent
from intraq_cli.jobs.targets import teacher_of
from intraq_cli.publish.card import model_card
from tests.conftest import SPEC, TINY_SET, trained
from tests.fakes.hub_routes import front_matter

INPUT = {**SPEC, "device": "cpu"}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.more = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(F.relu(self.more(F.relu(self.bn(self.conv(x))))).mean((2, 3)))


class Single(nn.Module):
    """A network of a single layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x)).mean((2, 3))


def save_timm_model(folder):
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3), folder, safe_serialization=True)


def card_of(network, folder, bits="", **options):
    rules = folder.parent / "bits.toml"
    rules.write_text(bits)
    quantize(network, out=folder, recipe="instant", bits=rules, **INPUT, **options)
    return " ".join((folder / "README.md").read_text().split())


@pytest.mark.parametrize(
    ("bits", "options", "says"),
    [
        (
            "",
            {},
            "4 bits, per tensor, asymmetric: the input of every convolution and linear layer; the image itself at 8",
        ),
        ('[activations]\n"*" = 4', {}, "linear layer; the image itself at 4 bits |"),
        ('[activations]\n"fc" = 2', {}, "the image itself at 8 bits, the input of the last layer at 2 |"),
        ('[activations]\n"more" = 6\n"fc" = 5', {}, "| 6 bits, per tensor, asymmetric: the input of every"),
        ('[activations]\n"conv" = 3', {"act_placement": "integer"}, "other operations), 1 of them at 3 |"),
        ('[activations]\n"*" = 3', {"act_placement": "integer"}, "| activations | 3 bits, per tensor"),
        ('[activations]\n"more" = 3', {"act_placement": "activations"}, "IntraQ paper), 1 of them at 3 |"),
        ('[weights]\n"more" = 8', {}, "in 3 layers, of which 1 at 8 |"),
        ("", {"first_last_bits": 8}, "in 3 layers, the first and the last at 8 |"),
    ],
)
def test_card_states_the_bits_of_weights_and_activations(tmp_path, bits, options, says):
    card = card_of(trained(Small()), tmp_path / "out", bits, w=4, a=4, **options)
    sites = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["sites"]
    assert says in card, (sites, card)


@pytest.mark.parametrize("more", ["", "more = 2\n"], ids=["all layers", "all but one"])
@pytest.mark.parametrize("placement", ["inputs", "integer"])  # activations that no layer reads have the bits of --a
def test_requested_bits_that_no_layer_has_are_not_reported(tmp_path, placement, more):
    """The options are 4 and 8 bits, and the rules replace both in every layer."""
    rules = f'[weights]\n"*" = 3\n{more}[activations]\n"*" = 6\n'
    card = card_of(trained(Small()), tmp_path / "out", rules, w=4, a=8, act_placement=placement)
    quantization = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    found = inspect(tmp_path / "out")
    compared, _ = compare([tmp_path / "out", tmp_path / "out"]).checkpoints
    told = [(one.w_bits, one.a_bits) for one in (found, compared)]
    assert [*told, (quantization["weights"]["bits"], quantization["activations"]["bits"])] == 3 * [(3, 6)]
    assert "# Small, W3A6" in card
    assert compared.mixed_bits == bool(more)


@pytest.mark.parametrize("options", [{}, {"first_last_bits": 8}, {"bits": "[weights]\nconv = 8"}])
def test_card_of_a_single_layer_network_states_its_bits(tmp_path, options):
    card = card_of(trained(Single()), tmp_path / "out", w=4, a=4, **options)
    width = 8 if options else 4
    assert f"# Single, W{width}A8" in card
    assert (
        f"| weights | {width} bits, per output channel, asymmetric, in 1 layer, including the first and the last |"
        in card
    )


@pytest.mark.slow
def test_timm_card_states_mixed_weight_bits(tmp_path):
    save_timm_model(tmp_path / "net")
    (tmp_path / "mix.toml").write_text('[weights]\n"layer1*" = 8\n')
    given = {"recipe": "instant", "input_size": (3, 32, 32)}
    quantize(tmp_path / "net", w=4, a=8, bits=tmp_path / "mix.toml", out=tmp_path / "out", **given)
    held = [*json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["modules"].values()]
    card = " ".join(push(tmp_path / "out", "a/b", timm=True, dry_run=True).card.split())
    assert "weights on grids of 4 to 8 bits" in card
    assert f"weights of {len(held)} layers quantized to 4 bits (of which {held.count(8)} at 8)" in card
    assert "takes at most 256 values" in card


def test_card_and_report_say_if_images_are_of_other_weights(tmp_path):
    other, network = trained(Small(), seed=1), trained(Small())
    settings = [*TINY_SET, "tuning.steps=0"]
    synthesize(other, out=tmp_path / "syn.safetensors", set=settings[:3], **INPUT)
    for name, model in (("other", network), ("same", other)):
        quantize(model, images=tmp_path / "syn.safetensors", out=tmp_path / name, set=settings, **INPUT)
    card, same = (" ".join((tmp_path / name / "README.md").read_text().split()) for name in ("other", "same"))
    assert "learned the images below from other weights (`module:Small`), and" in card
    assert "Learned from other weights (module:Small)" in (tmp_path / "other/report.html").read_text()
    assert "learned the images below from the network itself, and" in same
    assert "Learned from the network alone" in (tmp_path / "same/report.html").read_text()


def test_title_shows_the_bits_of_most_layers(small_digits, tmp_path):
    """Also if a rule leaves single layers at the requested bits, and if 8 bits were requested."""
    (tmp_path / "bits.toml").write_text('[weights]\n"*" = 8\n"fc" = 4\n[activations]\n"fc" = 4\n')
    given = {"recipe": "instant", "device": "cpu", "bits": tmp_path / "bits.toml"}
    for placement in ("inputs", "integer"):
        made = quantize(small_digits, w=4, a=8, act_placement=placement, out=tmp_path / placement, **given)
        assert (made.w_bits, made.a_bits) == (8, 8)
        card = (tmp_path / placement / "README.md").read_text()
        assert "W8A8" in card
        assert "1 at 4" in card
        assert "mostly W8A8" in (tmp_path / placement / "report.html").read_text()


def test_card_of_a_real_run_is_complete_and_its_code_runs(checkpoints, checkpoint):
    card = model_card(checkpoint.config, {**checkpoint.run, "evaluations": []})
    data = front_matter(card)
    assert data["license"] == "cc-by-4.0"
    assert data["pipeline_tag"] == "image-classification"
    assert "w4a4" in data["tags"]
    assert f"{(checkpoints / 'w4/model.safetensors').stat().st_size:,} bytes" in card
    for part in (
        "![synthetic images](samples.png)",
        "in 20 layers",
        "simulated",
        "quantize('resnet20_digits', out='w4', ",
    ):
        assert part in card
    # the Python code runs as it is
    code = card.split("```python")[1].split("```")[0].replace("PATH OF THIS FOLDER", str(checkpoints / "w4"))
    names = {"images": torch.zeros(2, 1, 8, 8)}
    exec(code, names)
    assert names["logits"].shape == (2, 10)


def test_card_states_the_bits_of_the_first_and_last_layer(tmp_path, small_digits):
    ends = {"w": 8, "a": 8, "first_last_bits": 6, "recipe": "instant", "device": "cpu"}
    quantize(small_digits, out=tmp_path / "w8", **ends)
    card = " ".join((tmp_path / "w8/README.md").read_text().split())
    assert "in 8 layers, the first and the last at 6" in card
    assert "the image itself at 8 bits, the input of the last layer at 6" in card
    assert "Nearly every processor has integer units for 8-bit convolutions" in card
    assert "samples.png" not in card


@pytest.mark.parametrize(
    ("licence", "written", "named"),
    [
        ("mit", "mit", None),
        (None, "unknown", None),
        ("", "unknown", None),
        ("unknown", "unknown", None),
        ("Apple AMLR", "other", "apple-amlr"),
    ],
)
def test_card_licence_is_valid_on_the_hub(checkpoint, licence, written, named):
    cfg = {**checkpoint.config["pretrained_cfg"], "license": licence}
    card = model_card({**checkpoint.config, "pretrained_cfg": cfg}, checkpoint.run)
    data = front_matter(card)
    assert (data["license"], data.get("license_name")) == (written, named)
    assert "| licence | " + ("unknown" if written == "unknown" else f"{licence}, from the base model |") in card


@pytest.mark.parametrize(
    ("source", "weights", "base", "licence"),
    [
        ("test_resnet.r160_in1k", None, "timm/test_resnet.r160_in1k", "cc-by-4.0"),
        ("test_resnet", "mine.pth", None, "unknown"),
        ("hf-hub:org/tiny@main", None, "org/tiny", "cc-by-4.0"),
        ("some/folder", None, None, "cc-by-4.0"),
        ("torchvision:resnet18", None, None, "cc-by-4.0"),
    ],
)
def test_base_model_and_licence_belong_to_the_weights(checkpoint, source, weights, base, licence):
    cfg = {**checkpoint.config["pretrained_cfg"], "hf_hub_id": "timm/test_resnet.r160_in1k"}
    config = {**checkpoint.config, "architecture": "test_resnet", "pretrained_cfg": cfg}
    run = {**checkpoint.run, "teacher": {**checkpoint.run["teacher"], "source": source, "weights": weights}}
    data = front_matter(model_card(config, run))
    assert (data.get("base_model"), data["license"]) == (base, licence)


@pytest.mark.slow
def test_folder_named_like_a_timm_model_is_not_taken_for_timms_weights(tmp_path, monkeypatch):
    save_timm_model(tmp_path / "test_resnet")
    config = json.loads((tmp_path / "test_resnet/config.json").read_text())
    config["pretrained_cfg"]["hf_hub_id"] = "timm/test_resnet.r160_in1k"
    (tmp_path / "test_resnet/config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    quantize("test_resnet", recipe="instant", out="out", device="cpu", input_size=(3, 32, 32))
    teacher = json.loads((tmp_path / "out/run.json").read_text())["teacher"]
    assert (teacher["source"], teacher["revision"]) == ("local-dir:test_resnet", None)
    assert "base_model" not in front_matter((tmp_path / "out/README.md").read_text())
    noted = teacher_of(read_checkpoint(tmp_path / "out"), None, None, silent, from_hub=False)
    assert noted.sha256 == teacher["sha256"]
