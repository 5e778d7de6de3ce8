"""The Hub's HTTP interface on localhost, with repositories in memory, for the real client to talk to.

``HF_ENDPOINT`` points the client here, ``HF_HUB_DISABLE_XET=1`` keeps it to git-LFS (Xet is a separate protocol, in
compiled code). Large files are redirected to another host name, as the real Hub does, so that the client sends no token
there.
"""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes import process
from tests.fakes.hub_connection import Fault
from tests.fakes.hub_repositories import Repository
from tests.fakes.hub_routes import Handler

DRIVER = """
import contextlib, io, json, sys, time, traceback
real, slept = time.sleep, []
def sleep(seconds):  # the client waits for seconds between its tries: so would the tests
    slept.append(seconds)
    real(min(seconds, 0.01))
time.sleep = sleep

def logits(network, channels):
    import torch
    shape = (channels, 8, 8)
    with torch.no_grad():
        return network(torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape)).tolist()

def do(job):
    if isinstance(job, list):
        from intraq_cli.app import main
        return main(job)
    from intraq_cli import IntraqError, load
    kind, name = job["do"], job["name"]
    try:
        if kind == "teacher":
            from intraq_cli.models.source import Source
            t = Source.parse(name).load()
            print(json.dumps([t.source, t.name, t.architecture, t.revision, t.sha256]))
        if kind == "benchmark":
            from intraq_cli.publish.recording import benchmark
            print(json.dumps(benchmark(name, job["split"])))
        if kind == "load":
            network = load(name, device="cpu", revision=job.get("revision"))
            print(json.dumps(logits(network, 1)))
    except IntraqError as error:
        print(json.dumps(f"{error.message} | {error.hint}"))
        return error.exit_code
    if kind == "timm":
        import timm
        print(json.dumps(logits(timm.create_model(f"hf-hub:{name}", pretrained=True).eval(), 3)))
    return 0

for job in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    slept.clear()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = do(job)
        except BaseException:
            code = -1
            traceback.print_exc()
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue(), "slept": slept}))
"""
"""Runs commands one by one in a separate process, as the client reads its settings when it is imported."""


class Hub:
    """Users are identified by tokens, each with the owners whose repositories it may write."""

    def __init__(self, tokens: dict[str, set[str]]) -> None:
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str | None]] = []
        """``METHOD path`` and token of each request."""

    def add(self, name: str, folder: Path | None = None, private: bool = False, gated: bool = False) -> Repository:
        """Add a repository with the files of a folder."""
        repository = self.repositories[name] = Repository(private, gated)
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        if folder is not None:
            repository.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "files")
        return repository

    def fault(self, pattern: str, **what: object) -> None:
        self.faults.append(Fault(pattern, **what))  # type: ignore[arg-type]

    def counted(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line, _ in self.requests)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve on a free port; yields the endpoint."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@dataclass
class Done:
    """Result of a command that :func:`drive` ran."""

    code: int
    out: str
    err: str
    slept: list[float]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def drive(jobs: list[Any], endpoint: str, home: Path, **env: str) -> list[Done]:
    """Run commands (lists of words) and loads (``do``, ``name``) in one process that sees only this Hub."""
    settings = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "DO_NOT_TRACK": "1",
        **env,
    }
    made = process.run("-c", DRIVER, input=json.dumps(jobs, default=str), env=settings)
    assert made.returncode == 0, made.stderr
    return [Done(**json.loads(line)) for line in made.stdout.splitlines()]
