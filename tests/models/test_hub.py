"""Downloads with the real huggingface_hub client and timm from a local server."""

import hashlib
import json

import pytest
import timm
import torch
from PIL import Image

from intraq_cli import load, quantize
from tests.conftest import FACTORY, SPEC, TINY_SET
from tests.fakes.hub import Hub, drive

TOKEN = "hf_" + "r" * 34
NAMES = [
    "hf-hub:org/tiny",
    "org/tiny",
    "org/tiny@main",
    "org/tiny@nowhere",
    "org/nothing",
    "org/gated",
    "org/empty",
    "org/w4",
]
LOADS = {
    "load": ("org/w4", None),
    "load nothing": ("org/nothing", None),
    "load float": ("org/tiny", None),
    "load at a commit": ("org/w4@{commit}", None),
    "load at a branch": ("org/w4", "dev"),
    "load nowhere": ("org/w4", "nowhere"),
    "load twice named": ("org/w4@dev", "main"),
    "load private": ("secret/w4", None),
    "load without its code": ("org/own", None),
    "load refused": ("org/refuses", None),
    "load broken": ("org/broken", None),
    "load busy": ("org/busy", None),
    "load for days": ("org/waits", None),
    "load hanging": ("org/hangs", None),
    "load cut": ("org/cut", None),
    "load cut again": ("org/cut", None),
}
BENCHMARK = b"""
name: Small
tasks:
  - {id: whole, config: default, split: test}
  - {id: easy, config: default, split: validation}
  - {id: hard, config: default, split: validation}
"""
BENCHMARKS = ["org/bench test", "org/bench validation", "org/bench train", "org/data test", "org/none test"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_digits):
    """A float model, checkpoints of one, and a checkpoint of a network from a Python file."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(network, folder / "tiny", safe_serialization=True)
    quantize(small_digits, out=folder / "w4", set=TINY_SET, device="cpu")
    quantize(small_digits, w=3, out=folder / "w3", set=TINY_SET, device="cpu")
    (folder / "nets.py").write_text(FACTORY)
    quantize(f"{folder / 'nets.py'}:net", recipe="instant", out=folder / "own", device="cpu", **SPEC)
    return folder


@pytest.fixture(scope="module")
def hub(made):
    hub = Hub({TOKEN: {"secret"}})
    hub.add("org/tiny", made / "tiny")
    hub.add("org/gated", made / "tiny", gated=True)
    hub.add("org/empty")
    hub.add("org/own", made / "own")
    hub.add("secret/w4", made / "w4", private=True)
    branches = hub.add("org/w4", made / "w4")
    branches.commit("dev", {path.name: path.read_bytes() for path in (made / "w3").iterdir()}, "3 bits")
    for name in ("refuses", "broken", "busy", "waits", "hangs"):
        hub.add(f"org/{name}", made / "w4")
    # other weights than in the repositories above, so that loading those does not put them into the cache
    hub.add("org/cut", made / "w3").commit("main", {**branches.commits[branches.refs["dev"]], "extra": b""}, "again")
    hub.add("datasets/org/bench").commit("main", {"eval.yaml": BENCHMARK}, "a benchmark")
    hub.add("datasets/org/data")
    hub.fault("HEAD /org/refuses", status=403, message="not for you")
    hub.fault("HEAD /org/broken", status=502, message="bad gateway")
    hub.fault("HEAD /org/busy", status=429, headers={"Retry-After": "3"})
    hub.fault("GET /org/hangs", seconds=1.5)
    hub.fault("HEAD /org/waits", status=429, headers={"Retry-After": "86400"})
    return hub


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    """The result of every job, all run in one process, as the client reads its endpoint when it is imported."""
    home = tmp_path_factory.mktemp("home")
    commit = hub.repositories["org/w4"].refs["main"]
    weights = hub.repositories["org/cut"].files["model.safetensors"]
    hub.fault(f"GET /cdn/{hashlib.sha256(weights).hexdigest()}", truncate=True, times=6)
    jobs = [{"do": "teacher", "name": name} for name in NAMES]
    # first, as another load has the same weights and would put them into the cache
    loads = sorted(LOADS, key=lambda name: "cut" not in name)
    for name in loads:
        target, revision = LOADS[name]
        jobs.append({"do": "load", "name": target.format(commit=commit), "revision": revision})
    for name in BENCHMARKS:
        data_set, _, split = name.partition(" ")
        jobs.append({"do": "benchmark", "name": data_set, "split": split})
    with hub.serve() as endpoint:
        done = drive(jobs, endpoint, home, HF_HUB_DOWNLOAD_TIMEOUT="1")
        with_token = drive([{"do": "load", "name": "secret/w4"}], endpoint, home / "other", HF_TOKEN=TOKEN)
        load_it = {"do": "load", "name": "org/w4"}
        proxied = drive([load_it], "http://hub.invalid", home / "by proxy", ALL_PROXY=endpoint, NO_PROXY="127.0.0.1")
    offline = drive(
        [{"do": "load", "name": name} for name in ("org/w4", "org/tiny", "org/never")],
        "http://127.0.0.1:9",
        home,
        HF_HUB_OFFLINE="1",
    )
    names = [*NAMES, *loads, *BENCHMARKS, "with a token", "by proxy", "offline", "offline float", "offline never"]
    return dict(zip(names, [*done, *with_token, *proxied, *offline], strict=True))


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "org/tiny", "org/tiny@main"])
def test_every_spelling_of_a_hub_model_loads_the_same_weights(answers, hub, name):
    source, short, architecture, revision, digest = answers[name].json
    assert source == "hf-hub:" + name.removeprefix("hf-hub:")
    assert (short, architecture, revision) == ("tiny", "test_resnet", hub.repositories["org/tiny"].refs["main"])
    assert digest == answers["org/tiny"].json[4]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/tiny@nowhere", "no such revision"),
        ("org/nothing", "the token is not accepted|no repository org/nothing"),
        ("org/gated", "is gated"),
        ("org/empty", "lacks a file"),
        ("org/w4", "already quantized"),
        ("load nothing", "no repository org/nothing"),
        ("load float", "not an intraq checkpoint"),
        ("load nowhere", "no such revision"),
        ("load twice named", "names a revision"),
        ("load private", "no repository secret/w4"),
        ("load without its code", "org/own was made from "),
        ("load refused", "the token does not allow this (403: not for you)"),
        ("load broken", "the Hub reported an error (502: bad gateway)"),
        ("load busy", "accepts no more requests for now"),
        ("load for days", "no more requests for 86400 s"),
        ("load hanging", "did not answer in time"),
        ("load cut", "cannot be reached"),
        ("offline float", "not an intraq checkpoint"),
        ("offline never", "HF_HUB_OFFLINE is set"),
    ],
)
def test_failed_downloads_name_their_cause(answers, name, says):
    assert answers[name].code == (2 if name == "load twice named" else 1), answers[name].err
    said = answers[name].json
    assert any(part in said for part in says.split("|"))
    assert "\n" not in said
    assert sum(answers[name].slept) < 60


@pytest.mark.parametrize("name", ["load", "load at a commit", "with a token", "by proxy", "offline"])
def test_downloaded_checkpoint_gives_identical_logits(answers, made, name):
    assert answers[name].json == _logits(made / "w4")


@pytest.mark.parametrize("name", ["load at a branch", "load cut again"])
def test_branch_and_retried_download_give_the_right_weights(answers, made, name):
    assert answers[name].json == _logits(made / "w3") != _logits(made / "w4")


def test_benchmark_task_is_found_only_if_one_task_matches_the_split(answers, hub):
    commit = hub.repositories["datasets/org/bench"].refs["main"]
    found = [answers[name].json for name in BENCHMARKS]
    assert found == [{"id": "org/bench", "task_id": "whole", "revision": commit}, None, None, None, None]


def test_token_is_sent_only_to_the_hub(answers, hub):
    lines = [(line, token) for line, token in hub.requests if token is not None]
    assert {token for _, token in lines} == {TOKEN}
    assert not any("/cdn/" in line for line, _ in lines)
    assert not any(TOKEN in done.out + done.err for done in answers.values())


def _logits(folder):
    with torch.no_grad():
        made = load(folder, device="cpu")(torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8))
    return json.loads(json.dumps(made.tolist()))


@pytest.mark.slow
def test_evaluation_loads_the_teacher_at_the_commit_it_was_quantized_from(made, tmp_path):
    hub = Hub({})
    repository = hub.add("org/moves", made / "tiny")
    first = repository.refs["main"]
    torch.manual_seed(1)
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=7), tmp_path / "new", safe_serialization=True)
    for k in range(7):
        (tmp_path / f"data/{k}").mkdir(parents=True)
        Image.effect_noise((40, 40), 80).convert("RGB").save(tmp_path / f"data/{k}/0.png")
    out, data = str(tmp_path / "out"), str(tmp_path / "data")
    with hub.serve() as endpoint:
        small = ("--recipe", "instant", "--input-size", "3,32,32")
        quantize_it = ["quantize", "org/moves@main", *small, "--out", out, "--quiet"]
        drive([quantize_it], endpoint, tmp_path / "home")
        repository.commit("main", {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}, "retrained")
        wanted = {"do": "teacher", "name": f"org/moves@{first}"}, {"do": "teacher", "name": "org/moves"}
        *teachers, evaluated = drive(
            [*wanted, ["evaluate", out, "--data", data, "--json"]], endpoint, tmp_path / "new home"
        )
    run = json.loads((tmp_path / "out/run.json").read_text())
    sha256 = [one.json[-1] for one in teachers]
    assert run["teacher"]["sha256"] == sha256[0] != sha256[1]
    assert "float weights" not in evaluated.err
    assert evaluated.json["n"] == 7
