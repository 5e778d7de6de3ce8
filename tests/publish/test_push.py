"""Pushes that succeed, with the real huggingface_hub client and a local server: what is uploaded."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

from intraq_cli import load
from intraq_cli.checkpoint.read import read_checkpoint
from tests.fakes.hub import Hub, drive
from tests.fakes.hub_routes import front_matter
from tests.publish.conftest import FILES, OWN_FILES, READER, TOKEN

MADE = {"README.md", "report.html", "run.json"}
"""Files that are rewritten for the Hub."""
KEYS = {"repo_id", "url", "commit", "files", "dry_run"}


@pytest.fixture(scope="module")
def went(made, tmp_path_factory):
    """The results of all commands that should succeed, run in one process, and the Hub after them."""
    home = tmp_path_factory.mktemp("home")
    hub = Hub({TOKEN: {"me"}, READER: set()})
    hub.add("me/old").commit("main", {"README.md": b"mine", "samples.png": b"old", "mine.txt": b"mine"}, "mine")
    hub.repositories["me/old"].commit("dev", dict(hub.repositories["me/old"].files), "dev")
    hub.add("other/theirs", made / "w4")
    hub.add("me/float", made / "float")
    hub.fault("POST /api/repos/create .*patient", status=429, headers={"Retry-After": "7"}, times=1)
    hub.fault("PUT /lfs/me/patient/[0-9a-f]+", status=500, times=1)
    w4, own = str(made / "w4"), str(made / "own")
    record = ["evaluate", w4, "--data", "digits", "--limit", "60", "--save", "--json"]
    small = ("--recipe", "instant", "--input-size", "3,32,32")
    jobs = {
        "dry": ["push", w4, "me/d4", "--dry-run", "--json"],
        "dry for people": ["push", own, "me/d4", "--dry-run"],
        "first": ["push", w4, "me/w4", "--json"],
        "same": ["push", w4, "me/w4", "--json"],
        "back": ["evaluate", "me/w4", "--data", "digits", "--limit", "60", "--json"],
        "load": {"do": "load", "name": "me/w4"},
        "record": record,
        "record again": record,
        "update": ["push", w4, "me/w4", "--message", "Measured", "--json"],
        "private": ["push", own, "me/hidden", "--private", "-q"],
        "branch": ["push", own, "me/old", "--revision", "dev", "--json"],
        "main": ["push", own, "me/old", "--json"],
        "ask": ["push", own, "other/theirs", "--create-pr", "--token", READER, "--json"],
        "patient": ["push", own, "me/patient", "--json"],
        "quantize": ["quantize", "me/float", *small, "--out", str(made / "tiny"), "-q"],
        "base": ["push", str(made / "tiny"), "me/tiny", "--json"],
        "timm": ["push", str(made / "tiny"), "me/tiny-timm", "--timm", "--json"],
        "timm back": {"do": "timm", "name": "me/tiny-timm"},
        "timm evaluated": {"do": "teacher", "name": "me/tiny-timm"},
        "plain": ["push", own, "me/own"],
    }
    with hub.serve() as endpoint:
        done = dict(zip(jobs, drive(list(jobs.values()), endpoint, home, HF_TOKEN=TOKEN), strict=True))
    assert {name: (one.code, one.err) for name, one in done.items() if one.code} == {}
    return done, hub


def test_dry_run_shows_everything_and_sends_nothing(went, made):
    done, hub = went
    assert not hub.counted("me/d4")
    assert set(done["dry"].json) >= KEYS
    assert (done["dry"].json["commit"], done["dry"].json["dry_run"]) == (None, True)
    assert done["dry"].json["files"] == done["first"].json["files"]
    assert {file["path"] for file in done["dry"].json["files"]} == FILES
    text = done["dry for people"].out
    assert "model.safetensors  " in text
    assert "pipeline_tag: image-classification" in text


def test_push_makes_one_commit_of_the_checkpoint_files_only(went, made):
    done, hub = went
    repository = hub.repositories["me/w4"]
    first = done["first"].json
    sent = repository.commits[first["commit"]]
    assert set(sent) == FILES | {".gitattributes"}
    for file in first["files"]:
        assert len(sent[file["path"]]) == file["bytes"]
    for name in FILES - MADE:
        assert sent[name] == (made / "w4" / name).read_bytes()
    assert first["left_out"] == [".env", "notes.txt", "weights.pth"]
    assert first["url"].endswith("/me/w4")
    # initial, first, update: the second push changed nothing
    assert len(repository.commits) == 3
    assert done["same"].json["commit"] == first["commit"]
    assert repository.messages[done["update"].json["commit"]] == "Measured"
    assert repository.private is False


def test_large_files_are_uploaded_in_parts(went):
    _, hub = went
    assert hub.counted(r"PUT /lfs/me/w4/\w+/2")
    assert hub.counted(r"POST /lfs/me/w4/\w+/complete")


def test_pushed_checkpoint_gives_identical_logits_and_accuracies(went, made):
    done, _ = went
    with torch.no_grad():
        here = load(made / "w4", device="cpu")(torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8))
    assert done["load"].json == here.tolist()
    remote, local = (json.loads(done[name].out) for name in ("back", "record"))
    same = ("n", "top1", "top5", "float_top1", "float_top5", "agreement")
    assert [remote[key] for key in same] == [local[key] for key in same]


def test_card_shows_how_to_load_from_its_repository(went, made):
    done, hub = went
    first = hub.repositories["me/w4"].commits[done["first"].json["commit"]]["README.md"].decode()
    assert 'load("me/w4")' in first
    assert "Not measured on real images" in first
    assert "PATH OF THIS FOLDER" in (made / "w4/README.md").read_text()
    branch = hub.repositories["me/old"].commits[done["branch"].json["commit"]]["README.md"].decode()
    assert 'load("me/old", revision="dev", model=\'file.py:factory\')' in branch


def test_repeated_evaluation_is_recorded_once_and_shown_on_the_card(went, made):
    done, hub = went
    noted = json.loads((made / "w4/run.json").read_text())["evaluations"]
    measured = done["record again"].json
    assert len(noted) == 1
    assert (noted[0]["n"], noted[0]["limit"], noted[0]["seed"]) == (60, 60, 0)
    assert noted[0]["float_top1"] == measured["float_top1"]
    card = hub.repositories["me/w4"].files["README.md"].decode()
    assert f"| digits | 60, seed 0 | {measured['top1']:.2f} | {measured['float_top1']:.2f} |" in card
    (result,) = front_matter(card)["model-index"][0]["results"]
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values == pytest.approx({"top-1 accuracy, %": measured["top1"], "top-5 accuracy, %": measured["top5"]})


def test_private_option_makes_a_private_repository(went):
    done, hub = went
    assert hub.repositories["me/hidden"].private is True
    assert done["private"].out == "me/hidden\n"
    assert "error" not in done["private"].err


def test_push_to_a_branch_keeps_files_of_the_owner(went):
    """A file of intraq that this checkpoint lacks is removed; a file of the owner stays."""
    done, hub = went
    old = hub.repositories["me/old"]
    assert set(old.commits[old.refs["dev"]]) == OWN_FILES | {"mine.txt"}
    assert old.commits[old.refs["dev"]]["mine.txt"] == b"mine"
    assert old.refs["dev"] == done["branch"].json["commit"] != done["main"].json["commit"] == old.refs["main"]


def test_pull_request_leaves_the_main_branch_unchanged(went):
    done, hub = went
    theirs = hub.repositories["other/theirs"]
    found = done["ask"].json
    assert found["pull_request"].startswith(found["url"] + "/discussions/")
    assert set(theirs.refs) > {"main"}
    assert theirs.refs["main"] != found["commit"]
    assert theirs.files["README.md"] != theirs.commits[found["commit"]]["README.md"]


def test_push_reports_waits_and_retries_and_then_succeeds(went):
    done, hub = went
    assert 7 in done["patient"].slept
    assert "the Hub limits requests: trying again in 7 s" in done["patient"].err
    assert "the Hub: retrying" in done["patient"].err
    assert done["patient"].json["commit"] in hub.repositories["me/patient"].commits


def test_push_refuses_to_overwrite_the_float_model(made, went, intraq):
    for more in ([], ["--timm"]):
        ran = intraq("push", made / "tiny", "me/float", "--dry-run", *more)
        assert ran.code == 1
        assert "me/float is the float model" in ran.err


def test_card_names_only_a_base_model_that_is_on_the_hub(went):
    _, hub = went
    data = front_matter(hub.repositories["me/tiny"].files["README.md"].decode())
    assert (data["base_model"], data["base_model_relation"]) == ("me/float", "quantized")
    assert data["datasets"] == []
    assert data["library_name"] == "intraq"
    assert data["license"] == "apache-2.0"  # as the base model's config.json says
    own = front_matter(hub.repositories["me/own"].files["README.md"].decode())
    assert "base_model" not in own


def test_timm_loads_a_checkpoint_pushed_for_timm(went, made):
    done, hub = went
    sent = hub.repositories["me/tiny-timm"].files
    assert set(sent) == {"README.md", "config.json", "model.safetensors", ".gitattributes"}
    (made / "back.safetensors").write_bytes(sent["model.safetensors"])
    back, ours = load_file(made / "back.safetensors"), read_checkpoint(made / "tiny").network.state
    assert back.keys() == load_file(made / "float/model.safetensors").keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    assert max(len(row.unique()) for row in back["fc.weight"]) <= 16
    network = timm.create_model("test_resnet", num_classes=7).eval()
    network.load_state_dict(back)
    with torch.no_grad():
        here = network(torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8))
    assert done["timm back"].json == here.tolist()
    config = json.loads(sent["config.json"])
    assert (config["num_classes"], "quantization_config" in config) == (7, False)
    data = front_matter(sent["README.md"].decode())
    assert (data["library_name"], data["base_model"], "model-index" in data) == ("timm", "me/float", False)


def test_token_is_sent_only_to_the_hub_and_never_shown_or_stored(went, made):
    done, hub = went
    elsewhere = r"GET /cdn/|PUT /lfs/|/complete$"  # storage with signed URLs, which needs no token
    assert {token for line, token in hub.requests if re.search(elsewhere, line)} == {None}
    assert {token for line, token in hub.requests if not re.search(elsewhere, line)} == {TOKEN, READER}
    assert not any(secret in one.out + one.err for one in done.values() for secret in (TOKEN, READER))
    for repository in hub.repositories.values():
        for tree in repository.commits.values():
            assert not any(secret.encode() in content for content in tree.values() for secret in (TOKEN, READER))


def test_push_prints_the_address_and_the_next_command(went):
    done, _ = went
    assert done["plain"].out.splitlines()[0].endswith("/me/own")
    assert "next: intraq evaluate me/own" in done["plain"].err
    assert "\x1b" not in done["plain"].err + done["plain"].out
    assert "3 steps" in done["plain"].err
    assert "warning" not in done["plain"].err + done["first"].err  # what libraries deprecate is not the user's concern
