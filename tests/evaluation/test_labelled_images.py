"""Batches decoded by worker processes equal those of one process, and errors come back unchanged."""

import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import Dataset

from intraq_cli.errors import DataError
from intraq_cli.evaluation.image_files import UnreadableImageError
from intraq_cli.evaluation.labelled_images import WORTH_WORKERS, LabelledImages

COUNT = WORTH_WORKERS + 7


class Numbered(Dataset):
    """Image ``i`` is filled with ``i`` and of class ``i % 3``; ``failing`` raises ``error`` or kills its process."""

    def __init__(self, failing=None, error=None):
        self.failing, self.error = failing, error

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        if index == self.failing:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.error
        return torch.full((1, 2, 2), float(index)), index % 3


def images(dataset, decoded=16):
    return LabelledImages("numbers", dataset, COUNT, decoded_bytes=decoded)


@pytest.mark.parametrize("decoded", [0, 16], ids=["in this process", "in others"])
def test_batches_come_in_order_with_and_without_worker_processes(decoded):
    batches = list(images(Numbered(), decoded).batches(10))
    assert [len(batch.labels) for batch in batches] == [10] * 26 + [3]
    values = torch.cat([batch.images[:, 0, 0, 0] for batch in batches])
    assert values.tolist() == list(range(COUNT))
    assert torch.cat([batch.labels for batch in batches]).equal(torch.arange(COUNT) % 3)
    assert torch.cat([batch.positions for batch in batches]).equal(torch.arange(COUNT))


def test_number_of_workers_is_limited_by_batches_and_shared_memory(monkeypatch):
    asked = images(Numbered())
    cores = len(os.sched_getaffinity(0))
    assert asked._workers(10) == cores
    assert asked._workers(COUNT) == 1  # one batch
    assert images(Numbered(), decoded=0)._workers(10) == 0
    monkeypatch.setattr("intraq_cli.evaluation.labelled_images._shared_memory", lambda: 3 * 10 * 16)
    assert asked._workers(10) == 1
    monkeypatch.setattr("intraq_cli.evaluation.labelled_images._shared_memory", lambda: 0)
    assert asked._workers(10) == 0


@pytest.mark.parametrize("decoded", [0, 16], ids=["in this process", "in others"])
def test_unreadable_image_and_its_position_are_left_out(decoded):
    events = []
    dataset = Numbered(12, UnreadableImageError("number 12: torn"))
    positions = torch.cat([b.positions for b in images(dataset, decoded).batches(10, events.append)])
    assert positions.tolist() == [i for i in range(COUNT) if i != 12]
    assert [event.message for event in events] == [f"1 of {COUNT} images were left out, e.g. number 12: torn"]


@pytest.mark.parametrize("decoded", [0, 16], ids=["in this process", "in others"])
def test_data_error_keeps_its_message_and_hint(decoded):
    with pytest.raises(DataError, match=r"^image 12 has no label$") as caught:
        list(images(Numbered(12, DataError("image 12 has no label", "another split")), decoded).batches(10))
    assert caught.value.hint == "another split"


def test_unexpected_error_in_a_worker_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError, match="in __getitem__"):
        list(images(Numbered(12, ZeroDivisionError("division"))).batches(10))


def test_killed_worker_is_a_data_error():
    with pytest.raises(DataError, match="was killed"):
        list(images(Numbered(12)).batches(10))


def still_running(processes):
    """Return those that live on for four seconds; torch waits for five."""
    for process in processes:
        process.join(4)
    return [process for process in processes if process.is_alive()]


@pytest.mark.parametrize("error", [ZeroDivisionError("division"), DataError("no label", "another split"), None])
def test_worker_processes_end_with_the_error_even_if_its_traceback_is_kept(error):
    others = set(multiprocessing.active_children())
    with pytest.raises((ZeroDivisionError, DataError)) as caught:
        list(images(Numbered(12, error)).batches(10))
    assert not still_running(set(multiprocessing.active_children()) - others)
    assert caught.tb is not None


def test_worker_processes_end_if_not_all_batches_are_wanted():
    others = set(multiprocessing.active_children())
    batches = images(Numbered()).batches(10)
    next(batches)
    started = set(multiprocessing.active_children()) - others
    batches.close()
    assert started
    assert not still_running(started)


def test_digest_of_a_sample_depends_on_its_seed():
    whole = LabelledImages("numbers", Numbered(), COUNT, digest=lambda: "all")
    one, same, other = (whole.sample(5, seed) for seed in (0, 0, 1))
    assert one.digest() == same.digest() != other.digest()
    assert whole.sample(None, 0).digest() == "all"
