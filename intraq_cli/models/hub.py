"""All that goes over the wire to and from the Hugging Face Hub, through its own client."""

import hashlib
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies, proxy_bypass

from intraq_cli import __version__
from intraq_cli.errors import HubError, IntraqError, ModelError, UsageError, first_line
from intraq_cli.events import Report, StageDone, StageStarted, StepDone, Warned

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.errors import HfHubHTTPError, Response
    from huggingface_hub.hf_api import ModelInfo, RepoFile

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds without a byte from the Hub; ``HF_HUB_DOWNLOAD_TIMEOUT`` overrides it. The client itself waits forever."""
CONNECT_TIMEOUT = 20.0
"""Seconds for a connection to the Hub."""
LONGEST_WAIT = 300
"""Seconds: the Hub counts requests in windows of five minutes, so that nothing longer can be meant."""
TRIES = 3
LOGIN = "log in with `hf auth login`, or set HF_TOKEN; to write, the token needs write access"


# --- down ---


def hub_file(repository: str, filename: str) -> str:
    """Path in the Hub's cache of one file of ``ORG/NAME[@REVISION]``, downloaded if need be."""
    from huggingface_hub import hf_hub_download

    repo_id, _, revision = repository.partition("@")
    return hf_hub_download(repo_id, filename, revision=revision or None)


def cached_commit(repository: str) -> str | None:
    """The commit that the Hub's cache holds for ``ORG/NAME[@REVISION]``; None if it holds none."""
    from huggingface_hub import try_to_load_from_cache

    repo_id, _, revision = repository.partition("@")
    for filename in ("config.json", "model.safetensors"):
        path = try_to_load_from_cache(repo_id, filename, revision=revision or None)
        if isinstance(path, str):
            return Path(path).parent.name
    return None


def is_offline() -> bool:
    """Whether the user has said (``HF_HUB_OFFLINE``) that nothing may be fetched."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def benchmark(data_set: str, split: str) -> dict[str, str] | None:
    """The one task of a benchmark on the Hub that is measured on ``split``; None if the data set is no such benchmark.

    Benchmarks say so in an ``eval.yaml``; only of these does the Hub take results in ``.eval_results``.
    """
    import yaml
    from huggingface_hub import hf_hub_download

    try:
        with downloading(data_set):
            path = Path(hf_hub_download(data_set, "eval.yaml", repo_type="dataset"))
        tasks = yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]
        fitting = [task["id"] for task in tasks if task.get("split") == split]
    except (ModelError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"id": data_set, "task_id": fitting[0], "revision": path.parent.name} if len(fitting) == 1 else None


@contextmanager
def downloading(what: str) -> Iterator[None]:
    """What can go wrong between the Hub and us becomes a line and a hint.

    Raises:
        ModelError: ``what`` cannot be had.
    """
    from huggingface_hub import errors as hub

    try:
        with _limits():
            yield
    except IntraqError:
        raise
    except hub.GatedRepoError as error:
        raise ModelError(f"{what} is gated", "accept its terms on the Hub and log in: `hf auth login`") from error
    except hub.RepositoryNotFoundError as error:
        hint = "check the spelling; a private repository needs a token: `hf auth login`"
        raise ModelError(f"the Hub has no repository {what}, and there is no such folder here", hint) from error
    except hub.RevisionNotFoundError as error:
        hint = "check --revision, or what stands behind the @"
        raise ModelError(f"{what}: the repository has no such revision", hint) from error
    except hub.HFValidationError as error:
        raise ModelError(f"{what} is no Hub repository name", "written ORG/NAME or ORG/NAME@REVISION") from error
    except hub.RemoteEntryNotFoundError as error:
        raise ModelError(
            f"{what} lacks a file of a model: {first_line(error)}", "it needs config.json and weights"
        ) from error
    except (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError) as error:
        answer = _answer(error)
        if isinstance(answer, hub.HfHubHTTPError) or _is_timeout(answer):
            reason, hint, _ = _explain(answer)
        else:
            reason = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub cannot be reached"
            hint = "check the spelling of a folder, else the network; `intraq zoo list` shows models that need none"
        raise ModelError(f"cannot download {what}: {reason}", hint) from error
    except hub.HTTPError as error:  # of the library that the client speaks HTTP with
        reason, hint, _ = _explain(error)
        raise ModelError(f"cannot download {what}: {reason}", hint) from error
    except OSError as error:  # a download that broke off, a name that is not resolved, a full disk
        reason = getattr(error, "reason", None) or first_line(error)  # URLError wraps another
        raise ModelError(f"cannot download {what}: {reason}", "check the network and the disk") from error


# --- up ---


@dataclass(frozen=True)
class Uploaded:
    """Where the files arrived."""

    commit: str
    pull_request: str | None


def repository_url(repo_id: str) -> str:
    """Of the page that people see."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def check_revision(revision: str | None) -> None:
    """Refuse what git cannot take as the name of a branch.

    Raises:
        UsageError: it is no such name.
    """
    fits = revision is None or re.fullmatch(r"[\w][\w./-]*(?<![./])", revision, re.ASCII)
    if not fits or ".." in str(revision):
        raise UsageError(f"{revision!r} is no name of a branch", "letters, digits, dots, dashes and slashes")


def check_repository_name(repo_id: str) -> None:
    """Refuse what the Hub would.

    Raises:
        UsageError: it is not ``ORG/NAME``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(f"{repo_id!r} is no Hub repository name", "written ORG/NAME, e.g. my-name/resnet18-w4a4")


def upload(
    repo_id: str,
    files: dict[str, bytes],
    *,
    obsolete: frozenset[str] = frozenset(),
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload",
    token: str | None = None,
    report: Report,
) -> Uploaded:
    """Send files in one commit, and compare what arrived with what was sent.

    Args:
        repo_id: created if it is not there.
        files: content by path in the repository.
        obsolete: paths that the same commit removes, where they are there.
        private: of a repository that is created; one that is public already is refused.
        revision: the branch; it must be there.
        create_pr: open a pull request instead.
        message: of the commit.
        token: default: what the client finds in HF_TOKEN or its login cache.
        report: told of every step.

    Raises:
        HubError: it was not done; the message says so where a new repository was left.
    """
    started = time.perf_counter()
    hub = _Hub(repo_id, _token(token), report)
    report(StageStarted("upload", 3, f"{len(files)} files, {sum(map(len, files.values())):,} bytes, to {repo_id}"))
    with _client(report):
        head = hub.head(revision)
        if head is None:
            if revision not in (None, "main"):
                raise HubError(
                    f"{repo_id} is not there, so it has no branch {revision}",
                    "push without --revision first",
                    "hub-missing",
                )
            hub.create(private)
        elif private and head.private is False:
            raise HubError(
                f"{repo_id} is there and public, against --private",
                "make it private in its settings on the Hub, or push without --private",
            )
        report(StepDone("upload", 1, 0, "made the repository" if head is None else "found the repository"))
        try:
            stale = hub.present(sorted(obsolete), head.sha) if head and head.sha and obsolete else []
            commit = hub.commit(files, stale, message, revision, create_pr, head.sha if head else None)
        except HubError as error:
            if head is not None:
                raise
            left = f"; {repo_id} was made and stays, empty unless the commit came through"
            raise HubError(error.message + left, error.hint, error.code) from error
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or a signal
                report(Warned(f"broken off in the middle: {repository_url(repo_id)} shows what is there"))
            raise
        report(StepDone("upload", 2, 0, f"committed {commit.oid[:12]}"))
        hub.compare(files, commit.oid)
        report(StepDone("upload", 3, 0, "compared with what was sent"))
    report(StageDone("upload", time.perf_counter() - started))
    return Uploaded(commit.oid, commit.pr_url)


class _Hub:
    """One repository, as a user with a token may see and change it; every refusal is a :class:`HubError`."""

    def __init__(self, repo_id: str, token: str, report: Report) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.token, self.report = repo_id, token, report
        self.api = HfApi(token=token, library_name="intraq", library_version=__version__)

    def head(self, revision: str | None) -> "ModelInfo | None":
        """The repository as it is; None if there is none, or none that the token may see."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        def look() -> "ModelInfo | None":
            try:
                return self.api.model_info(self.repo_id, revision=revision, timeout=_timeout())
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None

        return self.ask(look)

    def create(self, private: bool) -> None:
        # None: an organisation may have private as its default
        self.ask(lambda: self.api.create_repo(self.repo_id, private=private or None))

    def present(self, paths: list[str], revision: str) -> list[str]:
        return [file.path for file in self._files(paths, revision)]

    def commit(
        self,
        files: dict[str, bytes],
        stale: list[str],
        message: str,
        revision: str | None,
        create_pr: bool,
        parent: str | None,
    ) -> "CommitInfo":
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def send() -> "tuple[CommitInfo, list[str]]":
            with warnings.catch_warnings(record=True) as said:  # of the Hub, on the card
                warnings.simplefilter("always")
                made = self.api.create_commit(
                    self.repo_id,
                    [
                        *(CommitOperationAdd(path, content) for path, content in files.items()),
                        *(CommitOperationDelete(path) for path in stale),
                    ],
                    commit_message=message,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=parent,  # nothing that somebody else has committed meanwhile is lost
                )
            return made, [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]

        made, said = self.ask(send)
        for text in said:
            self.report(Warned(" ".join(self.scrub(text).split())))
        return made

    def compare(self, files: dict[str, bytes], revision: str) -> None:
        found = {file.path: file for file in self._files(list(files), revision)}
        wrong = [path for path, content in files.items() if path not in found or not _same(found[path], content)]
        if wrong:
            raise HubError(
                f"{self.repo_id} does not hold what was sent: {', '.join(wrong)} differ",
                f"commit {revision[:12]} is there but damaged: push again",
            )

    def _files(self, paths: list[str], revision: str) -> "list[RepoFile]":
        from huggingface_hub.hf_api import RepoFile

        found = self.ask(lambda: self.api.get_paths_info(self.repo_id, paths, revision=revision))
        return [entry for entry in found if isinstance(entry, RepoFile)]

    def ask(self, call: Callable[[], T]) -> T:
        """What ``call`` returns; the Hub is asked again, a few times, when it says how long to wait.

        Nothing but calls of the client belongs in ``call``: what they raise is explained.
        """
        for left in reversed(range(TRIES)):
            try:
                with _limits():
                    return call()
            except Exception as error:
                answer = _answer(error)
                if not isinstance(answer, (OSError, RuntimeError, ValueError, IntraqError)) and not _is_http(answer):
                    raise
                wait = _wait(answer)
                if wait is None or not left:
                    raise self.explained(answer) from error
            self.report(Warned(f"the Hub asks to wait {wait} s"))
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def explained(self, answer: BaseException) -> IntraqError:
        if isinstance(answer, IntraqError):
            return answer
        reason, hint, code = _explain(answer)
        return HubError(self.scrub(f"cannot push to {self.repo_id}: {reason}"), hint, code)

    def scrub(self, text: str) -> str:
        """``text`` without the token."""
        return text.replace(self.token, "***")


def _same(file: "RepoFile", content: bytes) -> bool:
    if file.size != len(content):
        return False
    if file.lfs:
        return file.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return file.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it


def _token(given: str | None) -> str:
    from huggingface_hub.utils import get_token_to_send

    token = given or get_token_to_send(None)
    if not token:
        raise HubError("no token for the Hub", LOGIN, "hub-token")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError("the token for the Hub holds characters that no token has", LOGIN, "hub-token")
    return token


@contextmanager
def _client(report: Report) -> Iterator[None]:
    """Within the block the client draws no bars, and tells of its waiting as we do; behind it, it is as it was."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Told(report)], False
    try:
        if bars:
            disable_progress_bars()
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        if bars:
            enable_progress_bars()


@contextmanager
def _limits() -> Iterator[None]:
    """Within the block the client gives up in time. One block a call: it makes a new session when it cannot connect."""
    from huggingface_hub.utils import get_session

    session = get_session()
    timeout, hooks = session.timeout, session.event_hooks
    if timeout.read is None:
        session.timeout = _timeout()
    session.event_hooks = {
        "request": [*hooks["request"], _reach],
        "response": [*hooks["response"], _refuse_to_wait_long],
    }
    try:
        yield
    finally:
        session.timeout, session.event_hooks = timeout, hooks


class _Told(logging.Handler):
    """Of what the client logs, that it waits; what failed is told by the error, if it stays so."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("Rate limited", "Retrying")):
            self.report(Warned(f"the Hub: {text[0].lower()}{text[1:]}"))


_reached: set[tuple[str, int]] = set()
"""Hosts and ports that have answered."""


def _reach(request: Any) -> None:
    """See that there is somebody to ask: the client would try for half a minute, as if it were a hiccup.

    Raises:
        OfflineModeIsEnabled: there is nobody, which leaves the client its cache.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
    by_proxy = {request.url.scheme, "all"} & getproxies().keys() and not proxy_bypass(host)
    if (host, port) in _reached or by_proxy:
        return
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise OfflineModeIsEnabled(f"{host} cannot be reached: {error.strerror or error}") from None
    _reached.add((host, port))


def _refuse_to_wait_long(response: "Response") -> None:
    """The client would sleep for as long as the answer says, a day if it says so."""
    wait = response.headers.get("retry-after", "")
    if wait.isdigit() and int(wait) > LONGEST_WAIT:
        raise HubError(f"the Hub takes no more requests for {wait} s", "try again then", "hub-busy")


def _wait(answer: BaseException) -> int | None:
    """Seconds after which the Hub wants to be asked again; None if it did not say so."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(answer, HfHubHTTPError) or answer.response.status_code != 429:
        return None
    after = answer.response.headers.get("retry-after", "")
    return int(after) if after.isdigit() else None


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT if os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") else TIMEOUT


def _answer(error: BaseException) -> BaseException:
    """What the Hub or the wire said, behind the errors that the client wraps it in."""
    while not _is_http(error) and not isinstance(error, IntraqError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_http(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError

    return isinstance(error, HTTPError)


def _is_timeout(error: BaseException) -> bool:
    return _is_http(error) and "Timeout" in type(error).__name__


def _explain(error: BaseException) -> tuple[str, str, str]:
    """Reason, hint and code of what the client raised."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.OfflineModeIsEnabled) and is_offline():
        return "HF_HUB_OFFLINE is set", "unset it", "hub-unreachable"
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_status(error)
    if _is_timeout(error):
        hint = "try again; HF_HUB_DOWNLOAD_TIMEOUT sets the seconds to wait"
        return "the Hub did not answer in time", hint, "hub-unreachable"
    if _is_http(error) or isinstance(error, hub.OfflineModeIsEnabled):
        return f"the Hub cannot be reached: {first_line(error)}", "check the network and HF_ENDPOINT", "hub-unreachable"
    return " ".join(str(error).split()), "check HF_ENDPOINT, and try again", "hub"


def _explain_status(error: "HfHubHTTPError") -> tuple[str, str, str]:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    said = f"{status}: {' '.join((error.server_message or error.response.reason_phrase).split())[:300]}"
    if isinstance(error, RevisionNotFoundError):
        hint = "make the branch first: `hf repos branch create ORG/NAME REVISION`"
        return f"there is no such revision ({said})", hint, "hub-missing"
    if isinstance(error, GatedRepoError):
        return f"it is gated ({said})", "accept its terms on the Hub and log in: `hf auth login`", "hub-forbidden"
    match status:
        case 401:
            return f"the token is not accepted ({said})", LOGIN, "hub-token"
        case 403:
            return (
                f"the token has no right to it ({said})",
                "check the owner's name and the token's rights",
                "hub-forbidden",
            )
        case 404:
            return (
                f"there is nothing of that name ({said})",
                "check the spelling, and the token's rights",
                "hub-missing",
            )
        case 409 | 412:
            return (
                f"somebody else has changed it meanwhile ({said})",
                "look at what is there, then again",
                "hub-conflict",
            )
        case 429:
            return f"the Hub takes no more requests for now ({said})", "try again later", "hub-busy"
        case _ if status >= 500:
            return f"the Hub failed ({said})", "try again later", "hub"
    return f"the Hub refuses ({said})", "", "hub"
