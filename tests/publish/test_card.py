"""Model cards describe the bits and images of the checkpoint correctly."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli import compare, inspect, push, quantize, synthesize
from intraq_cli.publish.privacy import without_paths
from tests.conftest import SPEC, TINY_SET, trained

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


def test_timm_card_states_mixed_weight_bits(tmp_path):
    import timm

    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3), tmp_path / "net", safe_serialization=True)
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


@pytest.mark.parametrize("path", ["/home/me/val", "/Users/me/val/", "C:\\Users\\me\\val", "/root/val", "~/val"])
def test_user_name_is_removed_from_a_data_path_in_a_home_folder(path):
    assert without_paths(path) == "val"
