import pytest
import torch

from intraq_cli.errors import RecipeError
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime import extensions
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.extensions import Extension
from intraq_cli.synthesis.losses import LossInput, terms
from intraq_cli.synthesis.synthesizer import synthesize_images
from tests.conftest import graph_of

SHAPE = (3, 8, 8)
BOUNDS = (torch.tensor([-2.0, -1.0, 0.0]), torch.tensor([2.0, 3.0, 1.0]))


@pytest.fixture
def made_with(network, monkeypatch):
    """Learn images with a custom loss."""

    def make(function, weight=1.0, steps=2, **config):
        monkeypatch.setitem(extensions.IMAGE_LOSSES, "own.py:mine", Extension("own.py:mine", function, "own.py", None))
        settings = Synthesis(num_images=12, batch_size=6, steps=steps, losses={"own.py:mine": weight}, **config)
        return synthesize_images(graph_of(network), SHAPE, 4, BOUNDS, settings, RunContext(3))

    return make


def test_custom_loss_gets_the_documented_inputs(made_with, network):
    seen = []

    def mine(given):
        seen.append((torch.is_grad_enabled(), given))
        return given.images.sum() * 0

    made = made_with(mine, lor_probability=0.0, precision="float32")
    assert [grad for grad, _ in seen] == [True, True, False] * 2
    for k, (grad, given) in enumerate(seen):
        assert isinstance(given, LossInput)
        assert (given.images.shape, given.logits.shape, given.features.shape) == ((6, *SHAPE), (6, 4), (6, 6))
        assert (given.labels.dtype, given.labels.shape, given.targets.shape) == (torch.int64, (6,), (6,))
        low, high = (edge[:, None, None] for edge in BOUNDS)
        assert torch.allclose(given.pixels, (given.images - low) / (high - low))
        assert torch.allclose(given.logits, network(given.images), atol=1e-5)
        assert given.images.requires_grad == given.logits.requires_grad == given.layers[0].mean.requires_grad == grad
        assert (given.centres is None) == (given.known is None) == (k < 3)  # in the first batch
        x = given.images.detach()
        first = network.conv1(x)
        assert torch.allclose(given.layers[0].mean, first.mean((0, 2, 3)), atol=1e-5)
        assert torch.equal(given.layers[0].running_var, network.bn1.running_var)
    assert torch.equal(torch.cat([seen[2][1].images, seen[5][1].images]).half(), made.images)
    assert torch.equal(torch.cat([seen[2][1].labels, seen[5][1].labels]), made.labels)


def test_custom_loss_acts_by_its_weight_and_is_part_of_the_total(made_with):
    def mine(given):
        return given.pixels.square().mean()

    weak, strong = (made_with(mine, weight, steps=30) for weight in (0.0, 100.0))
    assert strong.losses["mine"] < 0.5 * weak.losses["mine"]
    parts = strong.losses
    total = 3 * parts["bns"] + parts["sil"] + parts["mdc"] + 100 * parts["mine"]
    assert parts["total"] == pytest.approx(total, rel=1e-5)
    assert list(parts) == ["bns", "sil", "mdc", "mine", "total"]


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (lambda given: 0.5, "returned float, not a scalar tensor"),
        (lambda given: None, "returned NoneType"),
        (lambda given: given.images.mean((1, 2, 3)), r"float32 of shape \(6,\)"),
        (lambda given: given.labels.sum(), r"int64 of shape \(\)"),
        (lambda given: given.images.detach().square().mean(), "returned a tensor without a gradient"),
        (lambda given: given.nothing, "AttributeError: 'LossInput' object has no attribute 'nothing'"),
        (lambda given: given.logits @ given.images, "own.py: RuntimeError: "),
    ],
)
def test_invalid_results_of_a_custom_loss_are_recipe_errors(made_with, mine, says):
    with pytest.raises(RecipeError, match=says) as caught:
        made_with(mine)
    assert "own.py" in caught.value.message + caught.value.hint


def test_custom_loss_that_returns_nan_is_named(made_with):
    with pytest.raises(RecipeError, match="mine returned nan"):
        made_with(lambda given: given.pixels.mean() * float("nan"))


def test_custom_loss_that_is_a_constant_zero_needs_no_gradient(made_with):
    assert made_with(lambda given: given.images.new_zeros(())).losses["mine"] == 0


def test_synthesis_continues_after_out_of_memory_in_a_custom_loss(made_with):
    sizes = []

    def mine(given):
        sizes.append(len(given.images))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return given.images.square().mean()

    assert made_with(mine).images.isfinite().all()
    assert sizes == [6] * 7  # the first of six steps is repeated; a loss is always given the whole batch


def test_default_losses_are_those_of_the_paper_with_their_weights():
    assert list(terms(Synthesis())) == ["bns", "sil", "mdc"]
    assert [term.weight for term in terms(Synthesis(mdc_weight=2.0)).values()] == [3.0, 1.0, 2.0]
