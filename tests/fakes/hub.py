"""The Hub's HTTP interface on localhost, with repositories in memory, for the real client to talk to.

``HF_ENDPOINT`` points the client here, ``HF_HUB_DISABLE_XET=1`` keeps it to git-LFS (Xet is a separate protocol, in
compiled code). Large files are redirected to another host name, as the real Hub does, so that the client sends no token
there.
"""

import base64
import hashlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.fakes import process


def front_matter(card: str) -> dict[str, Any]:
    """The data at the top of a model card."""
    return yaml.safe_load(card.split("---")[1])


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

PART = 100_000
"""Bytes; larger files are uploaded in parts."""
LARGE = (".safetensors", ".png")
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "bsd-3-clause", "unknown", "other"}


@dataclass
class Repository:
    """Every commit is a complete tree: contents by path."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    """SHA-256 of the large files that were uploaded."""

    def commit(self, ref: str, tree: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{ref} {len(self.commits)} {message} {sorted(tree)}".encode()).hexdigest()
        self.commits[sha], self.refs[ref], self.messages[sha] = tree, sha, message
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the branch ``main``."""
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """What goes wrong, and how many times, with requests whose ``METHOD path body`` matches ``pattern``."""

    pattern: str
    status: int = 0
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Delay before the response."""
    page: bool = False
    """Respond with a web page, as a proxy does."""
    truncate: bool = False
    """Close the connection after half of the body."""
    before: Callable[[], object] | None = None
    """Called just before the request is answered as usual."""
    times: float = float("inf")


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
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
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


class Page(Exception): ...  # noqa: N818 - an answer


class Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, object]:
    made: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if path.endswith(LARGE):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n"
        made |= {"oid": blob_id(pointer.encode())}
        made |= {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": len(pointer)}}
    return made


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    numbers = itertools.count(1)

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def log_message(self, *args: object) -> None: ...

    # --- requests and responses ---

    def answer(self) -> None:
        self.body = self.read_body()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.parts_of_path = [unquote(part) for part in url.path.strip("/").split("/")]
        self.token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        line = f"{self.command} {self.path}"
        self.hub.requests.append((line, self.token))
        self.truncate = False
        try:
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.pattern, f"{line} {self.body[:200]!r}"):
                    fault.times -= 1
                    self.suffer(fault)
            self.route()
        except Page:
            self.send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self.send(refused.status, json.dumps({"error": refused.message}).encode(), headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def suffer(self, fault: Fault) -> None:
        time.sleep(fault.seconds)
        self.truncate = fault.truncate
        if fault.before:
            fault.before()
        if fault.page:
            raise Page
        if fault.status:
            raise Refused(fault.status, fault.message, headers=fault.headers)

    def read_body(self) -> bytes:
        if "chunked" in (self.headers["Transfer-Encoding"] or ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.truncate:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def send_json(self, data: object) -> None:
        self.send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    # --- permissions ---

    def identified(self) -> set[str] | None:
        """Owners whose repositories the user may write; None without a token."""
        if self.token is None:
            return None
        if self.token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[self.token]

    def repository(self, name: str, write: bool = False) -> Repository:
        owner, rights = name.partition("/")[0], self.identified()
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and owner not in (rights or ())):
            if rights is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and rights is None:
            raise Refused(401, "Invalid username or password.")
        if write and owner not in (rights or ()):
            raise Refused(403, f"You don't have write access to {name}")
        return repository

    # --- the API ---

    def route(self) -> None:
        match [self.command, *self.parts_of_path]:
            case ["POST", "api", "repos", "create"]:
                self.create()
            case ["POST", "api", "validate-yaml"]:
                self.validate_yaml(json.loads(self.body)["content"])
            case ["GET", "api", "models", owner, name]:
                self.info(f"{owner}/{name}", "main")
            case ["GET", "api", "models", owner, name, "revision", revision]:
                self.info(f"{owner}/{name}", revision)
            case ["POST", "api", "models", owner, name, "paths-info", revision]:
                tree, _ = self.tree(self.repository(f"{owner}/{name}"), revision)
                wanted = parse_qs(self.body.decode())["paths"]
                self.send_json([entry(path, tree[path]) for path in wanted if path in tree])
            case ["POST", "api", "models", owner, name, "preupload", revision]:
                self.preupload(f"{owner}/{name}", revision)
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                self.batch(f"{owner}/{name.removesuffix('.git')}")
            case ["PUT", "lfs", owner, name, oid]:
                self.store(f"{owner}/{name}", oid, self.body)
            case ["PUT", "lfs", _, _, oid, number]:
                self.hub.parts.setdefault(oid, {})[int(number)] = self.body
                self.send(200, headers={"ETag": f'"{sha256(self.body)}"'})
            case ["POST", "lfs", owner, name, oid, "complete"]:
                listed = [part["partNumber"] for part in json.loads(self.body)["parts"]]
                self.store(f"{owner}/{name}", oid, b"".join(self.hub.parts[oid][number] for number in listed))
            case ["POST", "lfs", _, _, oid, "verify"]:
                if len(self.hub.large.get(oid, b"")) != json.loads(self.body)["size"]:
                    raise Refused(422, "size differs")
                self.send(200)
            case ["POST", "api", "models", owner, name, "commit", revision]:
                self.commit(f"{owner}/{name}", revision)
            case [_, "cdn", oid]:
                self.send(200, self.hub.large[oid], {"ETag": f'"{oid}"'})
            case [_, "datasets", owner, name, "resolve", revision, *path]:
                self.resolve(f"datasets/{owner}/{name}", revision, "/".join(path))
            case [_, owner, name, "resolve", revision, *path]:
                self.resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                raise Refused(404, f"nothing at {self.path}")

    def tree(self, repository: Repository, revision: str) -> tuple[dict[str, bytes], str]:
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository.commits[sha], sha

    def create(self) -> None:
        asked, rights = json.loads(self.body), self.identified()
        name = f"{asked['organization']}/{asked['name']}"
        if rights is None:
            raise Refused(401, "Invalid username or password.")
        if asked["organization"] not in rights:
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{name}"')
        if name in self.hub.repositories:
            raise Refused(409, "You already created this model repo")
        self.hub.add(name, private=asked.get("visibility") == "private")
        self.send_json({"url": f"{self.endpoint}/{name}", "name": name})

    def validate_yaml(self, content: str) -> None:
        data = front_matter(content)
        wrong = []
        if data.get("license") not in LICENCES:
            wrong.append('"license" must be one of ' + ", ".join(sorted(LICENCES)))
        if data.get("license") == "other" and not re.fullmatch(r"[a-z0-9.-]+", data.get("license_name") or ""):
            wrong.append('"license_name" is required with "license: other"')
        if not isinstance(data.get("datasets", []), list):
            wrong.append('"datasets" must be a list')
        body = json.dumps({"errors": [{"message": text} for text in wrong], "warnings": []}).encode()
        self.send(400 if wrong else 200, body, {"Content-Type": "application/json"})

    def info(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        tree, sha = self.tree(repository, revision)
        made = {"id": name, "sha": sha, "private": repository.private, "gated": repository.gated, "tags": []}
        self.send_json({**made, "siblings": [{"rfilename": path} for path in tree]})

    def preupload(self, name: str, revision: str) -> None:
        tree, _ = self.tree(self.repository(name, write="create_pr" not in self.query), revision)
        found = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            there = tree.get(file["path"])
            oid = None if there is None else sha256(there) if mode == "lfs" else blob_id(there)
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": found})

    def store(self, name: str, oid: str, content: bytes) -> None:
        if sha256(content) != oid:
            raise Refused(400, "the digest differs")
        self.hub.large[oid] = content
        self.hub.repositories[name].large.add(oid)
        self.send(200)

    def batch(self, name: str) -> None:
        repository = self.repository(name)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid, size, url = asked["oid"], asked["size"], f"{self.endpoint}/lfs/{name}/{asked['oid']}"
            made = {"oid": oid, "size": size}
            if oid not in repository.large:
                upload: dict[str, object] = {"href": url}
                if size > PART:
                    urls = {str(number): f"{url}/{number}" for number in range(1, -(-size // PART) + 1)}
                    upload = {"href": f"{url}/complete", "header": {"chunk_size": str(PART), **urls}}
                made["actions"] = {"upload": upload, "verify": {"href": f"{url}/verify"}}
            objects.append(made)
        self.send_json({"transfer": "basic", "objects": objects})

    def commit(self, name: str, revision: str) -> None:
        as_request = "create_pr" in self.query
        repository = self.repository(name, write=not as_request)
        tree, head = self.tree(repository, revision)
        tree = dict(tree)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in repository.large:
                    raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                tree[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        number = next(self.numbers)
        sha = repository.commit(f"refs/pr/{number}" if as_request else revision, tree, header["summary"])
        made = {"success": True, "commitOid": sha, "commitUrl": f"{self.endpoint}/{name}/commit/{sha}"}
        if as_request:
            made["pullRequestUrl"] = f"{self.endpoint}/{name}/discussions/{number}"
        self.send_json(made)

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.repository(name)
        if repository.gated and name.partition("/")[0] not in (self.identified() or ()):
            raise Refused(403, f"Access to model {name} is restricted", "GatedRepo")
        tree, sha = self.tree(repository, revision)
        if path not in tree:
            raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        content = tree[path]
        if path.endswith(LARGE):
            oid = sha256(content)
            self.hub.large[oid] = content
            self.send(
                302,
                headers={
                    "Location": f"http://localhost:{self.server.server_port}/cdn/{oid}",  # type: ignore[attr-defined]
                    "X-Linked-Etag": f'"{oid}"',
                    "X-Linked-Size": str(len(content)),
                    "X-Repo-Commit": sha,
                },
            )
        else:
            self.send(200, content, {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": sha})
