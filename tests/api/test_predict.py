"""``predict``: which pictures are classified, and what is reported about those that cannot be."""

import math

import pytest
import torch
from PIL import Image
from torch import nn

from intraq_cli import predict
from intraq_cli.errors import DataError
from intraq_cli.events import Warned


class Brightness(nn.Module):
    """Returns class 1 for a bright picture, class 0 for a dark one, and NaN for a grey one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x):
        bright = x.mean((1, 2, 3))[:, None]
        return torch.where(bright.abs() < 0.01, torch.nan, bright * self.weight)


INPUT = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "device": "cpu"}


def picture(path, brightness):
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), brightness).save(path)


@pytest.fixture
def folder(tmp_path):
    """A dark and a bright picture, and between them a file that is not a picture."""
    picture(tmp_path / "pictures/a.png", 0)
    (tmp_path / "pictures/b.png").write_text("no picture")
    picture(tmp_path / "pictures/c.png", 255)
    return tmp_path / "pictures"


def test_unreadable_picture_in_a_folder_is_skipped_with_a_warning(folder):
    events = []
    found = predict(Brightness(), folder, report=events.append, **INPUT)
    assert [(result.image, result.classes[0]) for result in found] == [
        (str(folder / "a.png"), 0),
        (str(folder / "c.png"), 1),
    ]
    (warning,) = events
    assert isinstance(warning, Warned)
    assert warning.message.startswith("1 of 3 pictures were left out: ")
    assert "b.png" in warning.message


def test_unreadable_picture_given_by_name_is_an_error(folder):
    with pytest.raises(DataError, match=r"b\.png"):
        predict(Brightness(), [folder / "a.png", folder / "b.png"], **INPUT)
    (folder / "a.png").unlink()
    (folder / "c.png").unlink()
    with pytest.raises(DataError, match=r"none of 1 pictures can be read: .*b\.png"):
        predict(Brightness(), folder, **INPUT)


def test_links_are_followed_if_named_or_within_the_folder_but_not_out_of_it(folder, tmp_path):
    picture(tmp_path / "elsewhere/d.png", 255)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(tmp_path / "elsewhere/d.png")
    (folder / "inside").mkdir()
    (folder / "inside/e.png").symlink_to(folder / "c.png")
    (found,) = predict(Brightness(), folder / "b.png", **INPUT)
    assert (found.image, found.classes[0]) == (str(folder / "b.png"), 1)
    events = []
    images = [result.image for result in predict(Brightness(), folder, report=events.append, **INPUT)]
    assert images == [str(folder / name) for name in ("a.png", "c.png", "inside/e.png")]
    assert "b.png is a link that points outside" in events[0].message


@pytest.mark.slow
def test_predict_classifies_all_pictures_of_a_large_folder(tmp_path):
    picture(tmp_path / "many/0.png", 0)
    for k in range(1, 10_001):
        (tmp_path / f"many/{k}.png").hardlink_to(tmp_path / "many/0.png")
    assert len(predict(Brightness(), tmp_path / "many", **INPUT)) == 10_001


def test_nan_logits_for_a_picture_cause_a_warning(tmp_path):
    picture(tmp_path / "grey.png", 128)
    events = []
    predict(Brightness(), tmp_path / "grey.png", report=events.append, **INPUT)
    assert [event.message for event in events] == [f"{tmp_path / 'grey.png'}: the network's logits are NaN"]


def test_no_second_softmax_is_applied_to_a_network_ending_in_softmax(folder):
    plain, ending = (
        predict(network, folder, **INPUT) for network in (Brightness(), nn.Sequential(Brightness(), nn.Softmax(1)))
    )
    assert [one.probabilities for one in ending] == [pytest.approx(one.probabilities) for one in plain]
    assert plain[0].probabilities[0] == pytest.approx(100 / (1 + math.exp(-2)), rel=1e-4)
