"""Repositories of the fake Hub, in memory, and how their files are described."""

import hashlib
from dataclasses import dataclass, field

LARGE = (".safetensors", ".png")


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
