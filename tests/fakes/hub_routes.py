"""Routes of the fake Hub: repositories, uploads, commits and downloads."""

import base64
import json
import re
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.fakes.hub_connection import Connection, Refused
from tests.fakes.hub_repositories import LARGE, Repository, blob_id, entry, sha256

PART = 100_000
"""Bytes; larger files are uploaded in parts."""
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "bsd-3-clause", "unknown", "other"}


def front_matter(card: str) -> dict[str, Any]:
    """The data at the top of a model card."""
    return yaml.safe_load(card.split("---")[1])


class Handler(Connection):
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
