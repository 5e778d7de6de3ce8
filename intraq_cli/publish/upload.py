"""The upload: files into a repository on the Hugging Face Hub, in one commit, through the Hub's own client."""

import hashlib
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from intraq_cli import __version__
from intraq_cli.errors import HubError, IntraqError, UsageError
from intraq_cli.events import Report, StageDone, StageStarted, StepDone, Warned
from intraq_cli.models.hub import LOGIN, explain_failure, is_http_error, request_limits, request_timeout, root_error

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

T = TypeVar("T")

TRIES = 3
"""The client itself repeats requests for files, but none of those that look at a repository or change it."""


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
) -> "CommitInfo":
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
    hub = _Repository(repo_id, _token(token), report)
    report(StageStarted("upload", 3, f"{len(files)} files, {sum(map(len, files.values())):,} bytes, to {repo_id}"))
    with _client(report):
        head = hub.find_or_create(revision, private)
        with hub.told_when_left(created=head is None):
            there = {file.rfilename for file in (head.siblings if head else None) or ()}
            # of the parent commit, so that nothing that somebody else commits meanwhile is lost
            commit = hub.commit(
                files, sorted(obsolete & there), message, revision, create_pr, head.sha if head else None
            )
        report(StepDone("upload", 2, 0, f"committed {commit.oid[:12]}"))
        hub.compare(files, commit.oid)
        report(StepDone("upload", 3, 0, "compared with what was sent"))
    report(StageDone("upload", time.perf_counter() - started))
    return commit


class _Repository:
    """A repository, as a user with a token may see and change it; every refusal is a :class:`HubError`."""

    def __init__(self, repo_id: str, token: str, report: Report) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.token, self.report = repo_id, token, report
        self.api = HfApi(token=token, library_name="intraq", library_version=__version__)

    def find_or_create(self, revision: str | None, private: bool) -> "ModelInfo | None":
        """The repository as it is; None if it was made."""
        head = self.ask(lambda: self._look(revision))
        if head is None and revision not in (None, "main"):
            missing = f"{self.repo_id} is not there, so it has no branch {revision}"
            raise HubError(missing, "push without --revision first", "hub-missing")
        if head is None:  # private None: an organisation may have private as its default
            self.ask(lambda: self.api.create_repo(self.repo_id, private=private or None))
        elif private and head.private is False:
            hint = "make it private in its settings on the Hub, or push without --private"
            raise HubError(f"{self.repo_id} is there and public, against --private", hint)
        self.report(StepDone("upload", 1, 0, f"{'made' if head is None else 'found'} the repository"))
        return head

    def _look(self, revision: str | None) -> "ModelInfo | None":
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return self.api.model_info(self.repo_id, revision=revision, timeout=request_timeout())
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:  # or the token may not see it
            return None

    @contextmanager
    def told_when_left(self, created: bool) -> Iterator[None]:
        """Within the block, what stops the work says what is left of it on the Hub."""
        try:
            yield
        except HubError as error:
            if not created:
                raise
            left = f"; {self.repo_id} was made and stays, empty unless the commit came through"
            raise HubError(error.message + left, error.hint, error.code) from error
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or a signal
                self.report(Warned(f"broken off in the middle: {repository_url(self.repo_id)} shows what is there"))
            raise

    def commit(
        self,
        files: dict[str, bytes],
        stale: list[str],
        message: str,
        revision: str | None,
        create_pr: bool,
        parent: str | None,
    ) -> "CommitInfo":
        """One commit; ``upload_folder`` would make several of many files."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def send() -> "CommitInfo":
            added = [CommitOperationAdd(path, content) for path, content in files.items()]
            return self.api.create_commit(
                self.repo_id,
                [*added, *map(CommitOperationDelete, stale)],
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,
            )

        with warnings.catch_warnings(record=True) as said:  # of the Hub, on the card
            warnings.simplefilter("always")
            made = self.ask(send)
        for warning in said:
            if issubclass(warning.category, UserWarning):
                self.report(Warned(" ".join(self.scrub(str(warning.message)).split())))
        return made

    def compare(self, files: dict[str, bytes], revision: str) -> None:
        entries = self.ask(lambda: self.api.get_paths_info(self.repo_id, list(files), revision=revision))
        found = {entry.path: entry for entry in entries}
        wrong = [path for path, content in files.items() if not _same(found.get(path), content)]
        if wrong:
            raise HubError(
                f"{self.repo_id} does not hold what was sent: {', '.join(wrong)} differ",
                f"commit {revision[:12]} is there but damaged: push again",
            )

    def ask(self, call: Callable[[], T]) -> T:
        """What ``call`` returns; the Hub is asked again, a few times, when it says how long to wait.

        Nothing but calls of the client belongs in ``call``: what they raise is explained.
        """
        for left in reversed(range(TRIES)):
            try:
                with request_limits():
                    return call()
            except Exception as error:
                answer = root_error(error)
                if isinstance(answer, IntraqError):
                    raise answer from error
                if not isinstance(answer, (OSError, RuntimeError, ValueError)) and not is_http_error(answer):
                    raise
                wait = _wait(answer)
                if wait is None or not left:
                    reason, hint, code = explain_failure(answer)
                    raise HubError(self.scrub(f"cannot push to {self.repo_id}: {reason}"), hint, code) from error
            self.report(Warned(f"the Hub asks to wait {wait} s"))
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def scrub(self, text: str) -> str:
        """``text`` without the token."""
        return text.replace(self.token, "***")


def _same(file: "RepoFile | RepoFolder | None", content: bytes) -> bool:
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.sha import git_hash

    if not isinstance(file, RepoFile) or file.size != len(content):
        return False
    return file.lfs.sha256 == hashlib.sha256(content).hexdigest() if file.lfs else file.blob_id == git_hash(content)


def _token(given: str | None) -> str:
    from huggingface_hub.utils import get_token_to_send

    token = given or get_token_to_send(None)
    if not token:
        raise HubError("no token for the Hub", LOGIN, "hub-token")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError("the token for the Hub holds characters that no token has", LOGIN, "hub-token")
    return token


def _wait(answer: BaseException) -> int | None:
    """Seconds after which the Hub wants to be asked again; None if it did not say so."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(answer, HfHubHTTPError) or answer.response.status_code != 429:
        return None
    after = answer.response.headers.get("retry-after", "")
    return int(after) if after.isdigit() else None


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


class _Told(logging.Handler):
    """Of what the client logs, that it waits; what failed is told by the error, if it stays so."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("Rate limited", "Retrying")):
            self.report(Warned(f"the Hub: {text[0].lower()}{text[1:]}"))
