"""Accuracies counted by hand, and cached predictions of a float network."""

from pathlib import Path

import pytest
import torch

from intraq_cli.evaluation.accuracy import compare, likeliest, predictor_of
from intraq_cli.evaluation.labelled_images import Batch
from intraq_cli.evaluation.prediction_cache import CachedPredictor, PredictionCache, cache_folder
from intraq_cli.events import Warned

KEY = ("a network", "some images")


class Fixed(torch.nn.Module):
    """Predicts the image's value plus ``shift`` as its class; counts the images that it is run on."""

    def __init__(self, shift):
        super().__init__()
        self.shift, self.asked = shift, 0

    def forward(self, x):
        self.asked += len(x)
        return torch.nn.functional.one_hot((x[:, 0, 0, 0].long() + self.shift) % 8, 8).float()


@pytest.fixture
def batches():
    """Eight images with the values 0 to 7, in three batches."""
    x, y = torch.arange(8.0)[:, None, None, None], torch.tensor([0, 1, 2, 3, 0, 0, 0, 0])
    return [Batch(x[i : i + 3], y[i : i + 3], torch.arange(8)[i : i + 3]) for i in (0, 3, 6)]


def test_accuracies_and_agreement_equal_those_counted_by_hand(batches):
    found = compare(predictor_of(Fixed(0)), predictor_of(Fixed(1)), batches)
    assert (found.n, found.top1, found.agreement) == (8, 50.0, 0.0)
    assert found.float_top1 == 12.5  # image 7, class 0
    same = predictor_of(Fixed(0))
    assert compare(same, same, batches).agreement == 100.0


def test_lower_class_comes_first_among_equal_logits():
    assert likeliest(torch.zeros(1, 1000)).tolist() == [[0, 1, 2, 3, 4]]
    assert likeliest(torch.tensor([[1.0, 3.0, 1.0, 3.0]])).tolist() == [[1, 3, 0, 2]]


class NanFrom(Fixed):
    """The same, but one logit is NaN for images from ``first`` on."""

    def __init__(self, shift, first):
        super().__init__(shift)
        self.first = first

    def forward(self, x):
        logits = super().forward(x)
        logits[x[:, 0, 0, 0] >= self.first, 3] = torch.nan
        return logits


def test_images_with_nan_logits_count_as_wrong_and_cause_a_warning(batches):
    events = []
    found = compare(predictor_of(NanFrom(0, 6)), predictor_of(NanFrom(0, 2)), batches, events.append)
    assert (found.top1, found.float_top1, found.agreement) == (50.0, 25.0, 25.0)
    assert found.float_top5 == 25.0
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "the quantized network has NaN logits on 2 of 8 images: they count as wrong",
        "the float network has NaN logits on 6 of 8 images: they count as wrong",
    ]


def test_nan_logits_of_a_float_network_cause_only_one_warning(batches):
    events = []
    theirs = predictor_of(NanFrom(0, 4))
    found = compare(theirs, theirs, batches, events.append)
    assert (found.top1, found.agreement) == (50.0, 50.0)
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "the float network has NaN logits on 4 of 8 images: they count as wrong"
    ]


def test_predictions_for_images_with_nan_logits_are_cached_too(batches, tmp_path):
    once, again = NanFrom(1, 5), NanFrom(1, 5)
    first = recalled(once, PredictionCache(tmp_path), batches)
    assert recalled(again, PredictionCache(tmp_path), batches) == first
    assert (once.asked, again.asked) == (8, 3)


def recalled(teacher, kept, batches):
    """Accuracies with the cached predictions of ``teacher``; the cache is then updated."""
    theirs = CachedPredictor(predictor_of(teacher), kept.load(KEY, 8, 5))
    found = compare(predictor_of(Fixed(0)), theirs, batches)
    kept.save(KEY, theirs.known, on_disk=True)
    return found


def test_teacher_with_cached_predictions_runs_only_on_the_first_batch(batches, tmp_path):
    once, again = Fixed(1), Fixed(1)
    first = recalled(once, PredictionCache(tmp_path / "new" / "folder"), batches)
    assert recalled(again, PredictionCache(tmp_path / "new" / "folder"), batches) == first
    assert (once.asked, again.asked) == (8, 3)


def test_cached_predictions_are_not_used_if_the_network_has_changed(batches, tmp_path):
    recalled(Fixed(1), PredictionCache(tmp_path), batches)
    changed = Fixed(2)
    assert recalled(changed, PredictionCache(tmp_path), batches).float_top1 == 12.5  # image 6
    assert changed.asked == 8
    assert recalled(Fixed(2), PredictionCache(tmp_path), batches).float_top1 == 12.5


def test_images_without_a_cached_prediction_are_run_without_shifting_others(batches, tmp_path):
    whole = recalled(Fixed(1), PredictionCache(None), batches)
    second = batches[1]
    short = Batch(second.images[1:], second.labels[1:], second.positions[1:])  # the image 3 is damaged
    recalled(Fixed(1), PredictionCache(tmp_path), [batches[0], short, batches[2]])
    teacher = Fixed(1)
    assert recalled(teacher, PredictionCache(tmp_path), batches) == whole
    assert teacher.asked == 6  # the first batch, and the one with the image 3


def test_damaged_or_mismatched_cache_files_are_ignored(batches, tmp_path):
    kept = PredictionCache(tmp_path)
    recalled(Fixed(1), kept, batches)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert (PredictionCache(tmp_path).load(KEY, 8, 5) == -1).all()
    assert (kept.load(KEY, 9, 5) == -1).all()  # another number of images
    assert (kept.load(("another network",), 8, 5) == -1).all()


def test_there_is_no_cache_folder_without_a_home_directory(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None


def test_unwritable_cache_folder_is_not_an_error(batches, tmp_path):
    (tmp_path / "file").write_text("")
    assert recalled(Fixed(1), PredictionCache(tmp_path / "file" / "below"), batches).n == 8
