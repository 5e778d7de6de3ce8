"""Requests to the fake Hub and responses to them: bodies, tokens, permissions and faults."""

import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.hub_repositories import Repository

if TYPE_CHECKING:
    from tests.fakes.hub import Hub


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


class Page(Exception): ...  # noqa: N818 - an answer


class Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Connection(BaseHTTPRequestHandler):
    hub: "Hub"
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
