"""Pushes that fail, with the real huggingface_hub client and a local server: messages, and what is left behind."""

import pytest

from tests.fakes.hub import Hub, drive
from tests.publish.conftest import OWN_FILES, TOKEN

CASES = {
    # name: (arguments after the folder, code, phrase, what the Hub does)
    "no such user": (["me/a", "--token", "hf_nobody"], "hub-token", "the token is not accepted", {}),
    "echo": (["me/echo"], "hub-token", "bad token ***", {"pattern": "GET /api/models/me/echo", "status": 401}),
    "bad token": (["me/a", "--token", "hf_a\nb"], "hub-token", "contains invalid characters", {}),
    "namespace": (["other/new"], "hub-forbidden", "the token does not allow this (403", {}),
    "no write": (["other/theirs"], "hub-forbidden", "write access to other/theirs", {}),
    "revision": (["me/there", "--revision", "nowhere"], "hub-missing", "no such revision", {}),
    "nothing": (["me/none", "--revision", "dev"], "hub-missing", "has no branch dev", {}),
    "public": (["me/there", "--private"], "hub", "already exists and is public, not private", {}),
    "race": (["me/race"], "hub-conflict", "in the meantime (409", {"pattern": "create .*race", "status": 409}),
    "meanwhile": (["me/shared"], "hub-conflict", "A commit has happened since", {"pattern": "commit/main .*"}),
    "busy": (
        ["me/busy"],
        "hub-busy",
        "was created, and is empty unless the commit succeeded",
        {"pattern": "me/busy/commit", "status": 429},
    ),
    "very busy": (["me/long"], "hub-busy", "for 86400 s", {"pattern": "me/long/preupload", "status": 429}),
    "fails": (
        ["me/fails"],
        "hub",
        "the Hub reported an error (500",
        {"pattern": r"PUT /lfs/me/fails/\w+/2", "status": 500},
    ),
    "fails there": (
        ["me/there"],
        "hub",
        "the Hub reported an error (503",
        {"pattern": "me/there/commit", "status": 503},
    ),
    "hangs": (["me/hangs"], "hub-unreachable", "did not answer in time", {"pattern": "me/hangs ", "seconds": 1.5}),
    "hangs late": (
        ["me/late"],
        "hub-unreachable",
        "was created, and is empty unless the commit succeeded",
        {"pattern": "late/commit", "seconds": 1.5},
    ),
    "altered": (
        ["me/altered"],
        "hub",
        "does not contain what was uploaded: model.safetensors",
        {"pattern": "altered/paths"},
    ),
    "not a Hub": (["me/page"], "hub", "check HF_ENDPOINT", {"pattern": "GET /api/models/me/page", "page": True}),
}


@pytest.fixture(scope="module")
def failed(made, tmp_path_factory):
    hub = Hub({TOKEN: {"me"}})
    for name in ("me/there", "me/shared", "other/theirs"):
        hub.add(name).commit("main", {"README.md": b"mine"}, "mine")
    # the smallest checkpoint, as every push tests loading it; another one for a file that is uploaded in parts
    jobs, own, w4 = {}, str(made / "own"), str(made / "w4")
    for name, (args, _, _, what) in CASES.items():
        jobs[name] = ["push", w4 if name == "fails" else own, *args]
        if what:
            hub.fault(**_fault(hub, name, what))
    jobs["again"] = ["push", w4, "me/fails", "--json"]
    local = {
        "linked": ([], "checkpoint", "a link that leads out of the folder"),
        "damaged": ([], "checkpoint", "is not a safetensors file, or is damaged"),
        "damaged-own": ([], "checkpoint", "is not a safetensors file, or is damaged"),
        "talkative": ([], "checkpoint", "run.json contains what looks like a Hub token"),
        "float": ([], "checkpoint", "run.json is missing"),
        "nowhere": ([], "checkpoint", "there is no folder"),
        "w4": (["--timm"], "model", "timm has no architecture cifar_resnet"),
        "own": (["--message", " "], "usage", "the commit message is empty"),
    }
    for name, (args, _, _) in local.items():
        jobs[name] = ["push", str(made / name), "me/local", *args]
    jobs["name"] = ["push", own, "just-a-name"]
    with hub.serve() as endpoint:
        home = tmp_path_factory.mktemp("home")
        alike = [[*job, "--json"] if isinstance(job, list) else job for job in jobs.values()]
        done = dict(zip(jobs, drive(alike, endpoint, home, HF_TOKEN=TOKEN, HF_HUB_DOWNLOAD_TIMEOUT="1"), strict=True))
    push, nowhere = ["push", own, "me/a", "--json"], "http://127.0.0.1:9"
    done["no network"], done["no token"] = drive([[*push, "--token", TOKEN], push], nowhere, home)
    (done["offline"],) = drive([push], nowhere, home, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1")
    promised = {name: (code, phrase) for name, (_, code, phrase, _) in CASES.items()}
    promised |= {name: (code, phrase) for name, (_, code, phrase) in local.items()}
    promised |= {
        "name": ("usage", "ORG/NAME"),
        "no network": ("hub-unreachable", "cannot be reached"),
        "offline": ("hub-unreachable", "HF_HUB_OFFLINE is set"),
        "no token": ("hub-token", "no token for the Hub"),
    }
    return done, hub, promised


def _fault(hub, name, what):
    made = {"pattern": what["pattern"], "message": f"bad token {TOKEN}", **what}
    if name == "busy":
        made["headers"] = {"Retry-After": "2"}
    if name == "very busy":
        made["headers"] = {"Retry-After": "86400"}
    if name == "meanwhile":
        made["pattern"] = "me/shared/commit"
        made["before"] = lambda: hub.repositories["me/shared"].commit("main", {"README.md": b"theirs"}, "theirs")
    if name == "altered":

        def alter():
            files = hub.repositories["me/altered"].files
            files["model.safetensors"] = files["model.safetensors"][:-1] + b"?"

        made["before"] = alter
    return made


def test_every_failure_has_a_message_a_hint_and_an_error_code(failed):
    done, _, promised = failed
    wrong = {}
    for name, (code, phrase) in promised.items():
        one = done[name]
        error = one.json["error"] if one.out.startswith("{") and "error" in one.out else {}
        said = f"{error.get('message')} | {error.get('hint')}"
        lines = [line.split(":")[0] for line in one.err.splitlines() if not line.startswith(("upload", "warning"))]
        exit_code = 2 if code == "usage" else 1
        if (one.code, error.get("code")) != (exit_code, code) or phrase not in said or lines != ["error", "hint"]:
            wrong[name] = (one.code, error, one.err)
    assert wrong == {}


def test_failed_push_never_leaves_part_of_a_checkpoint(failed):
    _, hub, _ = failed
    for name in ("busy", "long", "late", "page"):
        files = hub.repositories.get(f"me/{name}")
        assert files is None or set(files.files) in ({".gitattributes"}, OWN_FILES | {".gitattributes"}), name
    assert "me/none" not in hub.repositories
    assert "me/local" not in hub.repositories
    assert "me/hangs" not in hub.repositories
    assert hub.repositories["me/there"].files == {"README.md": b"mine"}
    assert hub.repositories["me/shared"].files == {"README.md": b"theirs"}
    assert hub.repositories["other/theirs"].files == {"README.md": b"mine"}


def test_repeated_failed_upload_leaves_the_repository_empty(failed):
    done, hub, _ = failed
    assert "me/fails was created, and is empty unless the commit succeeded" in done["fails"].json["error"]["message"]
    assert done["again"].code == 1  # the Hub still fails
    assert set(hub.repositories["me/fails"].files) == {".gitattributes"}


def test_push_waits_as_long_as_the_hub_asks_up_to_300_seconds(failed):
    done, hub, _ = failed
    assert done["busy"].slept.count(2) == 2
    assert hub.counted("me/busy/commit") == 3
    assert not any(seconds > 300 for one in done.values() for seconds in one.slept)


def test_errors_never_show_the_token(failed):
    done, _, _ = failed
    assert not any(TOKEN in one.out + one.err for one in done.values())
