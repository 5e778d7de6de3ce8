"""Recording results in a checkpoint folder: nothing is lost, and the card agrees with the manifest."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
from filelock import FileLock

from intraq_cli import evaluate, export, load, push, quantize
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.errors import CheckpointError, OutputError, UsageError
from intraq_cli.events import Noted, Warned, silent
from intraq_cli.publish import recording
from intraq_cli.publish.recording import record
from intraq_cli.publish.repository import checkpoint_files
from tests.conftest import SmallNet, trained

FIGURES = {"top1": 81.25, "top5": 99.0, "float_top1": 82.0, "float_top5": 99.0, "agreement": 95.0}


def measured(data, **more):
    return {"data": data, "split": None, "limit": None, "seed": None, "n": 100, **FIGURES, **more}


def run_of(folder):
    return json.loads((folder / "run.json").read_text())


def noted(folder):
    return [one["data"] for one in run_of(folder)["evaluations"]]


@pytest.fixture(scope="module")
def made(small_digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "w8"
    quantize(small_digits, out=folder, w=8, a=8, recipe="instant", act_placement="integer", device="cpu")
    return folder


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "w8"
    shutil.copytree(made, folder)
    export(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "w8")
    return tmp_path / "w8"


@pytest.fixture(scope="module")
def checkpoint(made):
    return read_checkpoint(made)


def test_results_that_others_record_meanwhile_are_kept(folder, checkpoint):
    """Both have read the folder before either of them writes."""
    record(folder, checkpoint, measured("first"), silent)
    record(folder, checkpoint, measured("second"), silent)
    record(folder, checkpoint, measured("first", top1=70.0), silent)
    assert noted(folder) == ["second", "first"]
    assert [one["top1"] for one in run_of(folder)["evaluations"]] == [81.25, 70.0]
    assert "| first | 100 | 70.00 |" in (folder / "README.md").read_text()


def test_data_names_that_are_not_utf_8_get_replacement_characters(folder, checkpoint):
    data = b"d\xe9".decode("utf-8", "surrogateescape")
    record(folder, checkpoint, measured(data), silent)
    record(folder, checkpoint, measured(data, top1=70.0), silent)
    assert [(one["data"], one["top1"]) for one in run_of(folder)["evaluations"]] == [("d\ufffd", 70.0)]
    assert "| d\ufffd | 100 | 70.00 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert "Top-1 on d\ufffd goes" in (folder / "report.html").read_text(encoding="utf-8")


def test_results_recorded_concurrently_are_all_kept(folder, checkpoint):
    names = [f"data{k}" for k in range(6)]
    threads = [threading.Thread(target=record, args=(folder, checkpoint, measured(name), silent)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(noted(folder)) == names
    assert all(f"| {name} | 100 |" in (folder / "README.md").read_text() for name in names)
    assert not (folder / "run.json.lock").exists()


def test_waiting_too_long_for_the_lock_is_an_error(folder, checkpoint, monkeypatch):
    monkeypatch.setattr(recording, "LOCK_SECONDS", 0.1)
    with FileLock(folder / "run.json.lock"), pytest.raises(OutputError, match="another process is writing"):
        record(folder, checkpoint, measured("first"), silent)
    assert "evaluations" not in run_of(folder)


def test_results_of_another_checkpoint_are_not_recorded(folder, checkpoint):
    other = replace(checkpoint, run={**checkpoint.run, "seconds": 1.0})
    before = (folder / "run.json").read_bytes()
    with pytest.raises(OutputError, match="was replaced by another checkpoint"):
        record(folder, other, measured("first"), silent)
    assert (folder / "run.json").read_bytes() == before


def test_accuracy_of_other_float_weights_is_not_recorded(folder):
    """The card would give it as the accuracy of the network that the checkpoint was made from."""
    other = trained(SmallNet(classes=10, in_chans=1), (1, 8, 8))
    assert evaluate(folder, "digits", model=other, limit=20, device="cpu").float_top1 < 50
    with pytest.raises(UsageError, match="was not made from the float weights of module:SmallNet"):
        evaluate(folder, "digits", model=other, limit=20, device="cpu", save=True)
    assert "evaluations" not in run_of(folder)


@pytest.mark.parametrize("last", ["run.json", "report.html"])
def test_card_is_updated_after_an_interrupted_record(folder, checkpoint, monkeypatch, last):
    """Interrupted after writing ``last``: the next record corrects the card, and so does push."""
    real = recording.atomic_file

    def until_last(path, force):
        if path.name == {"run.json": "report.html", "report.html": "README.md"}[last]:
            raise KeyboardInterrupt
        return real(path, force)

    monkeypatch.setattr(recording, "atomic_file", until_last)
    with pytest.raises(KeyboardInterrupt):
        record(folder, checkpoint, measured("first"), silent)
    monkeypatch.setattr(recording, "atomic_file", real)
    assert noted(folder) == ["first"]
    assert "Not measured on real images" in (folder / "README.md").read_text()
    told = []
    assert "| first | 100 | 81.25 |" in push(folder, "me/w8", dry_run=True, report=told.append).card
    assert [type(event) for event in told] == [Noted]
    told = []
    record(folder, checkpoint, measured("second"), told.append)
    assert not told
    assert "| first | 100 | 81.25 |" in (folder / "README.md").read_text()
    push(folder, "me/w8", dry_run=True, report=told.append)
    assert not told


def test_push_warns_if_an_edited_card_lacks_recorded_results(folder, checkpoint):
    (folder / "README.md").write_text("my own words")
    told = []
    push(folder, "me/w8", dry_run=True, report=told.append)
    assert not told
    record(folder, checkpoint, measured("first"), silent)
    assert push(folder, "me/w8", dry_run=True, report=told.append).card == "my own words"
    assert len(told) == 1
    assert isinstance(told[0], Warned)
    assert "does not mention these results in run.json: first" in told[0].message
    (folder / "README.md").write_text("my own words: 81.25 %")
    push(folder, "me/w8", dry_run=True, report=told.append)
    assert len(told) == 1


def test_digests_of_local_cards_are_not_published(folder):
    assert "cards" in run_of(folder)
    assert "cards" not in json.loads(checkpoint_files(folder, "me/w8")["run.json"])


@pytest.mark.parametrize("damage", [None, b"something else", "same length"])
def test_push_rejects_a_missing_or_changed_onnx_file(exported, tmp_path, damage):
    folder = tmp_path / "w8"
    shutil.copytree(exported, folder)
    assert "model.onnx" in {file.path for file in push(folder, "me/w8", dry_run=True).files}
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    if damage is not None:
        other = content[:-1] + bytes([content[-1] ^ 1]) if damage == "same length" else damage
        (folder / "model.onnx").write_bytes(other)
    with pytest.raises(CheckpointError, match="is missing" if damage is None else "is not the file") as caught:
        push(folder, "me/w8", dry_run=True)
    assert f"intraq export {folder} --force" in caught.value.hint


def test_push_warns_of_an_onnx_file_without_a_recorded_check(folder):
    (folder / "model.onnx").write_bytes(b"mine")
    told = []
    push(folder, "me/w8", dry_run=True, report=told.append)
    assert ["is uploaded unchecked: run.json does not describe it" in event.message for event in told] == [True]


def test_all_spellings_of_a_data_folder_share_one_result(folder, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for data in ("data", str(tmp_path / "data"), "./data/", "digits"):
        record(folder, checkpoint, measured(data), silent)
    assert noted(folder) == ["./data/", "digits"]


def test_hand_edited_card_is_kept_and_a_deleted_one_rewritten(folder, intraq):
    (folder / "README.md").write_text("my own words")
    ran = intraq("evaluate", folder, "--data", "digits", "--limit", "20", "--save")
    assert ran.code == 0
    assert "was edited by hand and is not updated" in ran.err
    assert (folder / "README.md").read_text() == "my own words"
    assert [one["n"] for one in run_of(folder)["evaluations"]] == [20]
    (folder / "README.md").unlink()
    assert intraq("evaluate", folder, "--data", "digits", "--save", "-q").code == 0
    assert "| digits | 600 |" in (folder / "README.md").read_text()
    assert "measured on 600 images" in (folder / "report.html").read_text()
    load(folder, device="cpu")


@pytest.mark.parametrize("target", ["resnet20_digits", "org/name"])
def test_saving_an_evaluation_requires_a_local_folder(intraq, target):
    ran = intraq("evaluate", target, "--data", "digits", "--save", "--json")
    assert (ran.code, json.loads(ran.out)["error"]["code"]) == (2, "usage")
