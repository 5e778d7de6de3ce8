"""The digest of a float network, and which networks can be quantized."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
from torch import nn

from intraq_cli.errors import ModelError
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Teacher, capture_teacher, check_classifier
from tests.conftest import SmallNet
from tests.models.teachers import INPUT, load_teacher


def test_digest_changes_with_the_weights(timm_folder):
    first, again = load_teacher(str(timm_folder[0])), load_teacher(str(timm_folder[0]))
    assert first.sha256 == again.sha256
    again.network.fc.bias.data[0] += 1e-6
    assert first.sha256 != replace(again).sha256


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_norm", "no batch norm"),
        ("nan", "NaN or infinite"),
        ("untracked", "without running statistics"),
        ("map_output", "not logits"),
    ],
)
def test_networks_that_cannot_be_quantized_are_rejected_on_capture(factory, function, says):
    with pytest.raises(ModelError, match=says):
        capture_teacher(load_teacher(f"{factory}:{function}", INPUT))


def bare_teacher(name, **options):
    spec = InputSpec((3, 160, 160), (0.5,) * 3, (0.5,) * 3)
    return Teacher(timm.create_model(name, **options).eval(), spec, name, name, name)


def test_vision_transformer_is_rejected_for_lack_of_batch_norm():
    with pytest.raises(ModelError, match="no batch norm"):
        capture_teacher(bare_teacher("test_vit"))


@pytest.mark.parametrize("look", [check_classifier, capture_teacher])
def test_network_without_a_classifier_is_rejected(look):
    with pytest.raises(ModelError, match="no classifier: it returns 256 features"):
        look(bare_teacher("test_efficientnet", num_classes=0))


class Within(nn.Module):
    """A classifier that returns more than its logits, or these in another shape."""

    def __init__(self, way):
        super().__init__()
        self.network, self.way = SmallNet(), way

    def forward(self, x):
        return self.way(self.network(x))


@pytest.mark.parametrize(
    ("way", "hint"),
    [
        (lambda y: {"features": y[:, :1, None], "logits": y}, "network(x)['logits']"),
        (lambda y: {"out": y}, "network(x)['out']"),
        (lambda y: (y.mean(), y), "network(x)[1]"),
        (lambda y: SimpleNamespace(loss=None, logits=y), "network(x).logits"),
        (lambda y: y[..., None, None], "network(x).flatten(1)"),
        (lambda y: y[:, :1], "whose forward makes two classes of its logit x: torch.cat([-x, x], 1)"),
        (lambda y: y.mean(), "give a network that returns one logit per class"),
    ],
)
def test_hint_shows_how_to_extract_logits_from_other_outputs(way, hint):
    given = InputOverride((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ModelError, match=r"not logits \(batch, classes\)") as caught:
        check_classifier(Source.parse(Within(way), given).load())
    assert caught.value.hint.endswith(hint)
